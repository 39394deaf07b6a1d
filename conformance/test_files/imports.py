"""The import lines of a regression file, in the order that isort gives them."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from conformance.test_files.margins import INDENT, LONGEST
from conformance.test_files.number_strings import INTEGERS, NUMBERS

_OF_THE_PLATFORM = ("import vllm.platforms", "from vllm.platforms.cpu import CpuPlatform")
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


def whole_file(told: str, given: Iterable[str], text: str) -> str:
    """The docstring, the imports, and ``text``: after one empty line if it is a statement, else after two."""
    for word, definition in (("numbers(", NUMBERS), ("integers(", INTEGERS)):
        if word in text:
            text = f"{definition}\n\n\n{text}"
    gap = "\n" if text.startswith(("class ", "def ", "@")) else ""
    return f"{told}\n\n{import_lines(given, text)}\n{gap}\n{text}\n"


def import_lines(given: Iterable[str], text: str) -> str:
    """The imports ``given`` and those that ``text`` needs, sorted, in groups.

    Nothing of vLLM may be imported before its platform is chosen, so those come after a statement.
    """
    lines = {*given, *(line for word, line in _FOR_WORDS.items() if word in text)}
    groups: dict[str, list[str]] = {"standard": [], "others": [], "lora_compat": [], "vllm": []}
    for line in sorted(_merged(lines), key=_order):
        groups[_group(line.split()[1].partition(".")[0])].append(line)
    if groups["vllm"]:
        groups["others"] = sorted([*groups["others"], *_OF_THE_PLATFORM], key=_order)
    standard, others, ours, late = ("\n".join(group) for group in groups.values())
    if not late:
        return "\n\n".join(group for group in (standard, others, ours) if group)
    return "\n\n".join(group for group in ("# ruff: noqa: E402", standard, others, _CPU_PLATFORM, late) if group)


def _group(package: str) -> str:
    if package in ("vllm", "lora_compat"):
        return package
    return "standard" if package in sys.stdlib_module_names else "others"


def _merged(lines: Iterable[str]) -> list[str]:
    """One line for each module that names are imported from."""
    names: dict[str, set[str]] = {}
    whole = []
    for line in lines:
        module, _, listed = line.removeprefix("from ").partition(" import ")
        if not line.startswith("from "):
            whole.append(line)
            continue
        if " as " in line:
            whole.append(_from(module, [listed]))
            continue
        names.setdefault(module, set()).update(name.strip() for name in listed.split(","))
    return [*whole, *(_from(module, sorted(given, key=_kind)) for module, given in names.items())]


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= LONGEST:
        return line
    return "\n".join([f"from {module} import (", *(f"{INDENT}{name}," for name in names), ")"])


def _kind(name: str) -> tuple[int, str, str]:
    """Constants, classes, functions."""
    return 0 if name.isupper() else 1 if name.lstrip("_")[0].isupper() else 2, name.lower(), name


def _order(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line.split()[1]
