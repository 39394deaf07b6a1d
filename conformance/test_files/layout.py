"""Whole files: what a text needs is imported, and ruff sorts the imports and breaks the lines."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance.test_files.literals import INTEGERS, LONGEST, NUMBERS

_EARLY = ("import vllm.platforms", "from vllm.platforms.cpu import CpuPlatform")
_CPU_PLATFORM = 'vars(vllm.platforms)["_current_platform"] = CpuPlatform()  # before the rest of vLLM'
_MODULES = ("itertools", "json", "os", "pytest", "re", "shutil", "threading", "torch")
_NAMES = {
    "Any": "typing",
    "Callable": "collections.abc",
    "Iterator": "collections.abc",
    "Path": "pathlib",
    "SimpleNamespace": "types",
    "TemporaryDirectory": "tempfile",
    "ThreadPoolExecutor": "concurrent.futures",
    "partial": "functools",
    "save_file": "safetensors.torch",
    "suppress": "contextlib",
}


class CannotWrite(ValueError):
    """A failure that no file can be written for; the message says why."""


class FormatterMissing(RuntimeError):
    """ruff, which lays out test files, is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "test files are laid out by ruff, which is not installed: pip install 'lora-compat[conformance]'"
        )


def whole_file(told: str, given: Iterable[str], names: Mapping[str, str], text: str) -> str:
    """The docstring, the imports ``given`` and those that ``text`` needs, and ``text``, not laid out yet.

    ``names`` has, for each name of a library, the module it is imported from. Nothing of vLLM may be imported before
    its platform is chosen, so those come after a statement.
    """
    for word, definition in (("numbers(", NUMBERS), ("integers(", INTEGERS)):
        if word in text:
            text = f"{definition}\n\n\n{text}"
    words = set(re.findall(r"(?<!\.)\b[A-Za-z_]\w*", text)) - set(re.findall(r"\w+", " ".join(given)))
    lines = {
        *given,
        *(f"from {module} import {name}" for name, module in {**_NAMES, **names}.items() if name in words),
    }
    lines |= {f"import {name}" for name in _MODULES if f"{name}." in text and name in words}
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
