"""The server behind `fresh`: imports what is slow, then forks for whoever asks. A script, without imports of ours.

A line of its input is a request, as JSON: ``arguments`` of ``python -m``, ``directory``, ``environment``, and a
``folder`` with a socket, ``ended``, which is told the process' number and, once it has ended, its exit code.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

PRELOADED = ("hypothesis", "numpy", "pytest", "safetensors.torch", "torch", "xdist")  # those the suite always needs


def serve() -> None:
    """Until its input ends."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # where it is missing, whoever needs it will say so
            importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, _reap)
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(json.loads(line))
            os._exit(0)


def _reap(*_: object) -> None:
    """Nobody waits for those that wait below; what they used counts as this process' own, for whoever measures."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watch(asked: dict[str, Any]) -> None:
    """Forks the process that was asked for, and tells the one who asked."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = _become(asked)
        finally:
            os._exit(code)
    with socket.socket(socket.AF_UNIX) as told:
        told.connect(os.path.join(asked["folder"], "ended"))
        told.sendall(f"{process}\n".encode())
        told.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n".encode())


def _become(asked: dict[str, Any]) -> int:
    """What ``python -m`` does; returns its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process' own
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(asked["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(asked["directory"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = [asked["directory"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[:] = asked["arguments"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return _code(ended.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _code(given: object) -> int:
    if given is None or isinstance(given, int):
        return int(given or 0)
    print(given, file=sys.stderr)
    return 1


if __name__ == "__main__":
    serve()
