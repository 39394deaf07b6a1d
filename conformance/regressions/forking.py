"""The server behind `fresh`: imports what is slow, then forks for whoever asks. A script, without imports of ours.

It gets a listening socket, as the number of its file, and its address. A line of a connection is a request, as JSON:
``arguments`` of ``python -m``, ``directory``, ``environment``, and a ``folder`` for what is printed. The answer is the
process' number and, once it has ended, its exit code.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any

ADDRESS = "LORA_COMPAT_FORKS"  # tells a process that was forked here: by which interpreter, and where to ask for more
PRELOADED = ("hypothesis", "numpy", "pytest", "safetensors.torch", "torch", "xdist")  # those the suite always needs


def serve(listening: socket.socket, address: str) -> None:
    """Until its input ends, as it does with the process that started it."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # where it is missing, whoever needs it will say so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a million objects that each fork would walk, and so copy, in every full collection of its own
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, _reap)
    while sys.stdin not in select.select([sys.stdin, listening], [], [])[0]:
        asking = listening.accept()[0]
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listening.close()
                _watch(asking, address)
            finally:
                os._exit(0)
        asking.close()


def _reap(*_: object) -> None:
    """Nobody waits for those that wait below; what they used counts as this process' own, for whoever measures."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watch(asking: socket.socket, address: str) -> None:
    """Forks the process that is asked for, and tells the one who asks, if it still listens."""
    with asking.makefile(encoding="utf-8") as lines:
        asked = json.loads(lines.readline())
    process = os.fork()
    if process == 0:
        code = 1
        try:
            asking.close()  # or whoever asks would not see that the one who waits is gone
            code = _become(asked, address)
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):
        asking.sendall(f"{process}\n".encode())
        asking.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n".encode())


def _become(asked: dict[str, Any], address: str) -> int:
    """What ``python -m`` does; returns its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process' own
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(asked["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(asked["directory"])
    os.environ.clear()
    os.environ.update(asked["environment"], **{ADDRESS: f"{sys.executable}{os.pathsep}{address}"})
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
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
