"""A model whose process dies or hangs is an error of that model; the clauses and models after it are run."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import select
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from conformance.certification.apart import Apart
from conformance.judging.verdicts import Verdict
from tests.models.deeds import Deed, ask


def hang() -> None:
    time.sleep(600)


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (lambda: os._exit(3), "the process ended with exit code 3"),
        (lambda: ctypes.string_at(0), "the process was ended by SIGSEGV, in File"),
        (hang, "a case hung: Timeout (0:00:01)!, in File"),
    ],
    ids=["exit", "segfault", "hang"],
)
def test_a_death_is_an_error_of_its_model_and_the_next_one_is_run(deed: Deed, said: str) -> None:
    apart = Apart(seconds=1.0 if deed is hang else 600.0)
    dead = ask(apart, "deadly", deed)
    assert dead.verdict is Verdict.ERROR
    assert dead.target == "deadly"
    assert dead.errors[0].startswith(said)
    assert ask(apart, "harmless", lambda: None).verdict is Verdict.PASS
    assert ask(apart, "deadly", lambda: None, "MODEL-2").verdict is Verdict.PASS
    apart.stop()


@pytest.mark.parametrize("deed", [lambda: None, lambda: os._exit(3)], ids=["it passes", "it dies"])
def test_temporary_files_go_with_the_process_of_a_model(deed: Deed, tmp_path: Path) -> None:
    def leave() -> None:
        folder = tempfile.mkdtemp(prefix="left-")
        (tmp_path / "where").write_text(folder)
        deed()

    apart = Apart(seconds=600.0)
    ask(apart, "model", leave)
    apart.stop()
    assert not Path((tmp_path / "where").read_text()).exists()


def test_the_process_of_a_model_ends_when_whoever_asks_is_killed(tmp_path: Path) -> None:
    def leave() -> None:
        (tmp_path / "where").write_text(f"{os.getpid()} {tempfile.mkdtemp()}")

    def ask_and_die() -> None:
        ask(Apart(seconds=600.0), "model", leave)
        os.kill(os.getpid(), signal.SIGKILL)

    asking = multiprocessing.get_context("fork").Process(target=ask_and_die)
    asking.start()
    asking.join()
    process, folder = (tmp_path / "where").read_text().split()
    with suppress(ProcessLookupError):  # it has ended already
        ended, _, _ = select.select([os.pidfd_open(int(process))], [], [], 300.0)
        assert ended, "it waits for questions that nobody asks"
    assert not Path(folder).exists()
