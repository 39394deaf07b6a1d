"""Stands for Python where others start it, torchrun and xdist: what it is to run is forked by the tests' server.

    python -S forked.py MODULE [ARGUMENT ...]
    python -S forked.py -u -c CODE

It lends that process its input and outputs, hands on the signals that it gets, and ends as it does.
"""  # fmt: skip

import json
import os
import runpy
import signal
import socket
import sys
import tempfile


def main(arguments: list[str]) -> int:
    """Until the fork has ended; its exit code."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["TESTS_FORKS"])
        asked = {"arguments": ["tests.forked", "--lent", str(os.getpid()), *arguments], "directory": os.getcwd()}
        lines = server.makefile("rw", encoding="utf-8")
        print(json.dumps({**asked, "environment": dict(os.environ), "folder": folder}), file=lines, flush=True)
        process = int(lines.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda given, _: os.kill(process, given))
        code = int(lines.readline())
        return code if code >= 0 else 128 - code


def become(lender: str, arguments: list[str]) -> None:
    """What the fork does."""
    for number, mode in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_APPEND)):
        os.dup2(os.open(f"/proc/{lender}/fd/{number}", mode), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process' own
    if arguments[:2] == ["-u", "-c"]:
        exec(arguments[2], {"__name__": "__main__"})
    else:
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1] == "--lent":
        become(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))
