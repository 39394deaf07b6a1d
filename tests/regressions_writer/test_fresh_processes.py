"""A process that is forked with torch in it is like one that was started: nothing of this one is in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from conformance.regressions import fresh
from conformance.regressions.fresh import Ended, run_module

PLAIN = {"PATH": os.environ["PATH"]}


def run(text: str, folder: Path, *, environment: Mapping[str, str] = PLAIN, seconds: float = 120.0) -> Ended:
    """A module with this text, run in ``folder``."""
    (folder / "program.py").write_text(text, encoding="utf-8")
    return run_module(["program", "given"], folder, environment, seconds)


def test_it_has_arguments_directory_environment_and_the_library_but_nothing_of_ours(tmp_path: Path) -> None:
    text = (
        "import os, sys\n"
        "print(__name__, sys.argv[1:], os.getcwd(), sorted(os.environ), 'torch' in sys.modules)\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('conformance', 'lora_compat', 'tests')])\n"
        "print(sys.stdin.read(), file=sys.stderr)\n"
    )
    ended = run(text, tmp_path, environment={**PLAIN, "ASKED": "1"})
    assert ended.stdout == f"__main__ ['given'] {tmp_path} ['ASKED', 'PATH'] True\n[]\n"
    assert (ended.code, ended.stderr) == (0, "\n")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(4)", 4, ""),
        ("raise SystemExit('what is wrong')", 1, "what is wrong"),
        ("raise ValueError('a value')", 1, "ValueError: a value"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'at the end'); raise SystemExit(3)", 3, "at the end"),
    ],
)
def test_its_exit_code_and_last_words_arrive(text: str, code: int, said: str, tmp_path: Path) -> None:
    ended = run(text, tmp_path)
    assert ended.code == code
    assert said in ended.output


def test_one_without_an_end_is_ended_and_what_it_printed_is_kept(tmp_path: Path) -> None:
    run("", tmp_path)  # the server is there
    ended = run("import time; print('begun', flush=True); time.sleep(3600)", tmp_path, seconds=3.0)
    assert ended == Ended(None, "begun\n", "")


def test_where_the_server_is_gone_another_one_is_started(tmp_path: Path) -> None:
    run("", tmp_path)
    (server,) = fresh._servers.values()
    server.kill()
    server.wait()
    assert run("print('there')", tmp_path).stdout == "there\n"
