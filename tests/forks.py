"""Fresh processes for what the tests run, forked with ours imported, which takes longer than most of what they do.

Their server is itself a fork of that of `fresh`. Their own fresh processes come from there, and have nothing of ours.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from conformance.regressions import forking, fresh

ROOT = Path(__file__).parent.parent
SERVER = "TESTS_FORKS"  # tells a process where `tests.forked` finds the server
IMPORTED = ("conformance.conftest", "conformance.cli", "strategies.drawing", "jinja2", "_hypothesis_pytestplugin")
PYTHON = (sys.executable, "-S", str(Path(__file__).with_name("forked.py")))  # for those that start it themselves
SECONDS = 300.0  # a server that does not come is no test that hangs; a busy machine takes a minute


@contextmanager
def with_ours() -> Iterator[None]:
    """Whatever is forked meanwhile has ours imported, as it lies in this checkout."""
    with patch.dict(fresh._addresses, {sys.executable: address()}):
        yield


@cache
def address() -> str:
    """Where the server listens; it ends with this process."""
    folder = tempfile.TemporaryDirectory()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.join(folder.name, "tests"))
        listening.listen()
        listening.settimeout(SECONDS)
        threading.Thread(target=_wait, args=(folder.name,), daemon=True).start()
        _kept.extend((folder, listening.accept()[0]))
    return os.path.join(folder.name, "asked")


def _wait(folder: str) -> None:
    """Until the server ends."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    with suppress(fresh.ServerGone):  # that of `fresh` may end first
        fresh.run_module(["tests.forks", folder], ROOT, environment, None)


def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """As a plugin of a suite, ``-p tests.forks``: its workers are forks."""
    for spec in specs:
        spec.python = " ".join(PYTHON)


_kept: list[object] = []  # until this process ends: the folder, and the connection whose end is the server's


def _serve(folder: str) -> None:
    """Becomes the server."""
    importlib.import_module("conformance.cli").parser()  # which imports every command
    sys.modules.pop("conformance.cli.__main__", None)  # that is for a process to run
    for name in IMPORTED:
        importlib.import_module(name)
    listening, tests = (socket.socket(socket.AF_UNIX) for _ in range(2))
    listening.bind(os.path.join(folder, "asked"))
    listening.listen()
    tests.connect(os.path.join(folder, "tests"))
    sys.stdin = tests.makefile()
    forking.serve(listening, os.environ[forking.ADDRESS].rpartition(os.pathsep)[2])


if __name__ == "__main__":
    _serve(sys.argv[1])
