"""A process that is forked with torch in it is like one that was started: nothing of this one is in it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.certification.api import CertificationFailed, certify
from conformance.regressions import forking, fresh
from conformance.regressions.fresh import Ended, ServerGone, run_module
from tests.suite import ROOT

PLAIN = {"PATH": os.environ["PATH"]}


def run(text: str, folder: Path, *, environment: Mapping[str, str] = PLAIN, seconds: float | None = 120.0) -> Ended:
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
    assert ended.stdout == f"__main__ ['given'] {tmp_path} ['ASKED', '{forking.ADDRESS}', 'PATH'] True\n[]\n"
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


def test_a_process_has_its_own_ones_forked_by_the_same_server(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text("import os; print(os.environ['LORA_COMPAT_FORKS'])", encoding="utf-8")
    text = (
        "import os, pathlib\n"
        "from conformance.regressions import fresh\n"
        "inner = fresh.run_module(['inner'], pathlib.Path.cwd(), {}, 60.0)\n"
        "print(inner.stdout.strip() == os.environ['LORA_COMPAT_FORKS'], inner.stderr)\n"
    )
    assert run(text, tmp_path, environment={**PLAIN, "PYTHONPATH": str(ROOT)}).output == "True \n"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[subprocess.Popen[bytes]]:
    """Those that this test starts, and may end; they import nothing first."""
    script = tmp_path / "quick.py"
    text = Path(forking.__file__).read_text(encoding="utf-8")
    script.write_text(re.sub(r"^PRELOADED = .*", "PRELOADED = ()", text, flags=re.MULTILINE), encoding="utf-8")
    monkeypatch.setattr(forking, "__file__", str(script))
    started: list[subprocess.Popen[bytes]] = []

    def start(*given: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*given, **options))
        return started[-1]

    popen = subprocess.Popen
    monkeypatch.setattr(fresh, "_addresses", {})
    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def test_where_the_server_is_gone_another_one_is_started(
    servers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    run("", tmp_path)
    servers[0].kill()
    servers[0].wait()
    assert run("print('there')", tmp_path).stdout == "there\n"
    assert len(servers) == 2


def test_a_server_that_dies_before_it_forks_is_an_error_though_there_is_no_limit(
    servers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = fresh._connected

    def gone(python: str) -> socket.socket:
        connection = connected(python)
        servers[0].kill()
        servers[0].wait()
        return connection

    monkeypatch.setattr(fresh, "_connected", gone)
    with pytest.raises(CertificationFailed, match="ended before 'python -m conformance"):
        certify("package.module:Linear")


def test_whoever_waits_for_a_process_may_be_ended_too(tmp_path: Path) -> None:
    text = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nimport time; time.sleep(3600)"
    with pytest.raises(ServerGone, match="ended before 'python -m program given' did"):
        run(text, tmp_path, seconds=None)
