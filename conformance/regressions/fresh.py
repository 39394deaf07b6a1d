"""Fresh Python processes that need not import torch first: forks of a server that has it, and nothing of ours.

Whatever runs in such a process has its own fresh processes forked by the same server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
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


class ServerGone(RuntimeError):
    """The server of fresh processes ended before the process that it was asked for; what that came to is not known."""


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

    Raises:
        ServerGone: nobody is left who could say how the process ended.
    """
    with tempfile.TemporaryDirectory() as folder, _connected(python) as server:
        asked = {"arguments": list(arguments), "directory": str(directory), "environment": dict(environment)}
        server.settimeout(seconds)
        code = _told(server, json.dumps({**asked, "folder": folder}), " ".join(["python -m", *arguments]))
        return Ended(code, *(_read(Path(folder, name)) for name in ("stdout", "stderr")))


def _told(server: socket.socket, request: str, command: str) -> int | None:
    """The exit code, which whoever waits for the process tells; a server that is gone tells nothing more."""
    process = 0
    try:
        with server.makefile("rw", encoding="utf-8") as lines:
            print(request, file=lines, flush=True)
            process = int(lines.readline())
            return int(lines.readline())
    except TimeoutError:
        _kill(process)
        return None
    except (ValueError, OSError) as error:  # an empty line, or a connection that was reset
        _kill(process)
        raise ServerGone(f"the server that forks fresh processes ended before {command[:200]!r} did, so what that "
                         "came to is not known: was it killed, or short of memory?") from error  # fmt: skip


def _kill(process: int) -> None:
    if process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


_inherited = os.environ.get(forking.ADDRESS, "").rpartition(os.pathsep)
_addresses = {_inherited[0]: _inherited[2]}  # of servers, by interpreter
_lock = threading.Lock()


def _connected(python: str) -> socket.socket:
    with _lock:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(_addresses.get(python, ""))
        except OSError:  # there is none, or it is gone
            _addresses[python] = _started(python)
            connection.connect(_addresses[python])
        return connection


def _started(python: str) -> str:
    """The address of a new server, which ends with this process."""
    folder = tempfile.mkdtemp()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address := os.path.join(folder, "asked"))
        listening.listen()
        number = listening.fileno()
        command = [python, "-P", forking.__file__, str(number), address]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[number])
    Finalize(None, _end, (server, folder), exitpriority=1)  # of this process, not of its forks
    return address


def _end(server: subprocess.Popen[bytes], folder: str) -> None:
    server.kill()
    server.communicate()
    shutil.rmtree(folder, ignore_errors=True)
