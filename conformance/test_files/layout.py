"""Whole files: what a text needs is imported, and ruff sorts the imports and breaks the lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance.test_files.literals import INTEGERS, LONGEST, NUMBERS

_EARLY = ("import vllm.platforms", "from vllm.platforms.cpu import CpuPlatform")
_CPU_PLATFORM = 'vars(vllm.platforms)["_current_platform"] = CpuPlatform()  # before the rest of vLLM'
# What a file imports for words that its text has.
_FOR_WORDS = {
    "torch.": "import torch",
    "pytest.": "import pytest",
    "re.findall(": "import re",
    "json.dumps(": "import json",
    "Path(": "from pathlib import Path",
    "TemporaryDirectory(": "from tempfile import TemporaryDirectory",
    "threading.": "import threading",
    "ThreadPoolExecutor(": "from concurrent.futures import ThreadPoolExecutor",
    "SimpleNamespace(": "from types import SimpleNamespace",
    " Any": "from typing import Any",
    "partial(": "from functools import partial",
    "suppress(": "from contextlib import suppress",
    "Callable[": "from collections.abc import Callable",
    "Iterator[": "from collections.abc import Iterator",
}


class FormatterMissing(RuntimeError):
    """ruff, which lays out test files, is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "test files are laid out by ruff, which is not installed: pip install 'lora-compat[conformance]'"
        )


def whole_file(told: str, given: Iterable[str], text: str) -> str:
    """The docstring, the imports ``given`` and those that ``text`` needs, and ``text``, not laid out yet.

    Nothing of vLLM may be imported before its platform is chosen, so those come after a statement.
    """
    for word, definition in (("numbers(", NUMBERS), ("integers(", INTEGERS)):
        if word in text:
            text = f"{definition}\n\n\n{text}"
    lines = {*given, *(line for word, line in _FOR_WORDS.items() if word in text)}
    late = {line for line in lines if line.split()[1].partition(".")[0] == "vllm"}
    early = lines - late
    if not late:
        return "\n".join([told, "", *sorted(early), "", text, ""])
    head = [told, "", "# ruff: noqa: E402", "", *sorted({*early, *_EARLY}), "", _CPU_PLATFORM, ""]
    return "\n".join([*head, *sorted(late), "", text, ""])


def laid_out(texts: Sequence[str], width: int = LONGEST) -> list[str]:
    """The texts as ruff leaves them, all in one call of it.

    Raises:
        FormatterMissing: it is not installed.
    """
    if find_spec("ruff") is None:
        raise FormatterMissing
    with TemporaryDirectory() as folder:
        files = [Path(folder, f"test_{number}.py") for number in range(len(texts))]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, encoding="utf-8")
        ours = ["--config", 'lint.isort.known-first-party=["lora_compat"]', "--line-length", str(width), folder]
        for tool in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
            command = [sys.executable, "-m", "ruff", *tool, "--isolated", "--no-cache", *ours]
            subprocess.run(command, capture_output=True, check=True)
        return [file.read_text(encoding="utf-8") for file in files]
