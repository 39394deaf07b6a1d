"""A pytest plugin for the process that runs one test file: writes down how the test failed, as data.

It is copied next to the file and knows nothing of this project, as the process may have another environment.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

FILE = "LORA_COMPAT_WITNESS"  # the environment variable that says where it writes
_seen: dict[str, Any] = {}


def pytest_assertrepr_compare(op: str, left: object, right: object) -> None:
    """Keeps what was compared."""
    if op == "==":
        _seen["left"], _seen["right"] = left, right


def pytest_exception_interact(node: Any, call: Any) -> None:
    """Keeps what was raised, and where: outside torch and the test itself, if it was."""
    error = call.excinfo.value
    frames = [(_relative(frame.f_code.co_filename), line, frame.f_code.co_qualname)
              for frame, line in traceback.walk_tb(error.__traceback__)]  # fmt: skip
    test = os.path.basename(str(node.path))
    start = next((at for at, (file, _, _) in enumerate(frames) if os.path.basename(file) == test), 0)
    frames = frames[start:]  # what is before it is pytest's
    own = [one for one in frames if not one[0].startswith("torch/") and os.path.basename(one[0]) != test]
    file, line, function = (own or frames)[-1]
    _seen["type"], _seen["text"], _seen["site"] = type(error).__name__, str(error), f"{file}:{line} in {function}"


def pytest_sessionfinish() -> None:
    """Writes it."""
    with open(os.environ[FILE], "w", encoding="utf-8") as file:
        json.dump(_seen, file, default=repr)


def _relative(file: str) -> str:
    for folder in sorted(map(os.path.abspath, sys.path), key=len, reverse=True):
        if file.startswith(folder + os.sep):
            return file[len(folder) + 1 :]
    return file
