"""Fresh Python processes that need not import torch first: forks of a server that has it, and nothing of ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path

from conformance.regressions import forking


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended and what it printed; ``code`` is negative for a signal, None where it had no end in time."""

    code: int | None
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All that it printed."""
        return self.stdout + self.stderr


def run_module(
    arguments: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    seconds: float | None,
    python: str = sys.executable,
) -> Ended:
    """``python -m ARGUMENTS`` in ``directory``, in a process that shares nothing with this one.

    It is ended after ``seconds``; with None it may take as long as it likes.

    What it prints goes to files, because a pipe stays open as long as any process that it leaves in the background.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.join(folder, "ended"))
        listening.listen()
        listening.settimeout(seconds)
        asked = {"arguments": list(arguments), "directory": str(directory), "environment": dict(environment)}
        _ask(python, json.dumps({**asked, "folder": folder}) + "\n")
        code = _told(listening, seconds)
        return Ended(code, *(_read(Path(folder, name)) for name in ("stdout", "stderr")))


def _told(listening: socket.socket, seconds: float | None) -> int | None:
    process = 0
    try:
        with listening.accept()[0] as connected, connected.makefile(encoding="utf-8") as lines:
            connected.settimeout(seconds)
            process = int(lines.readline())
            return int(lines.readline())
    except TimeoutError:
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return None


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


_servers: dict[str, subprocess.Popen[str]] = {}  # by interpreter; they end with this process
_lock = threading.Lock()


def _end(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.communicate()


def _ask(python: str, request: str) -> None:
    with _lock:
        if python not in _servers or _servers[python].poll() is not None:
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            command = [python, "-P", forking.__file__]
            _servers[python] = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True)
            Finalize(None, _end, (_servers[python],), exitpriority=1)  # of this process, not of its forks
        stdin = _servers[python].stdin
        assert stdin is not None
        stdin.write(request)
        stdin.flush()
