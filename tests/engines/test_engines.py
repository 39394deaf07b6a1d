"""The engines, threads and real `torch.distributed` ranks: the same results, and findings instead of hangs."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import just

from conformance.engines import serving
from conformance.engines.distributed import DistributedEngine
from conformance.engines.ranks import CollectiveMismatch, Engine, RankFailed, RankGroup, RankHung, RankLost
from conformance.engines.serving import ForeignDevice, ProcessGroup
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.verdicts import Verdict
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.models.observing import Refusal, attempt
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from strategies.cases import Case, Regime
from strategies.drawing import cases
from tests.suite import run_suite, shown


@pytest.fixture(scope="module", params=["threads", "gloo"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "threads":
        yield ThreadsEngine()
        return
    gloo = DistributedEngine("gloo")
    yield gloo
    gloo.close()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_collectives_see_every_rank_in_order(engine: Engine, size: int) -> None:
    def program(group: RankGroup) -> tuple[list[float], float]:
        own = torch.full((1, 2), float(group.rank))
        return group.all_gather(own, dim=0)[:, 0].tolist(), float(group.all_reduce(own)[0, 0])

    for gathered, total in engine.run(size, program):
        assert gathered == list(range(size))
        assert total == sum(range(size))


def test_a_rank_may_write_to_what_it_has_handed_over(engine: Engine) -> None:
    def program(group: RankGroup) -> float:
        own = torch.full((1,), float(group.rank))
        total = group.all_reduce(own)
        own.fill_(100)
        total += 1
        return float(total)

    assert engine.run(4, program) == [7.0] * 4


def test_a_rank_that_skips_a_collective_is_named_with_both_call_sites(engine: Engine) -> None:
    def program(group: RankGroup) -> None:
        group.all_reduce(torch.ones(2))
        if group.rank != 2:
            group.all_gather(torch.ones(3))

    with pytest.raises(CollectiveMismatch) as raised:
        engine.run(4, program)
    first, second = raised.value.sites
    assert "rank 0 issued all_gather(shape=(3,)" in first
    assert "program" in first
    assert "rank 2 ended without it, its last was all_reduce(shape=(2,)" in second


@pytest.mark.parametrize(
    "differ",
    [
        lambda group: group.all_reduce(torch.ones(1 + group.rank)),
        lambda group: group.all_reduce(torch.ones(1, dtype=torch.float64 if group.rank else torch.float32)),
        lambda group: group.all_gather(torch.ones(2, 2), dim=group.rank),
        lambda group: group.all_reduce(torch.ones(1)) if group.rank else group.all_gather(torch.ones(1)),
    ],
    ids=["shape", "dtype", "dim", "kind"],
)
def test_collectives_that_do_not_match_are_a_mismatch(engine: Engine, differ) -> None:
    with pytest.raises(CollectiveMismatch, match=r"rank 0 issued .* rank 1 issued"):
        engine.run(2, differ)


def test_an_exception_names_its_rank_and_the_others_unwind(engine: Engine) -> None:
    def program(group: RankGroup) -> None:
        if group.rank == 1:
            raise ValueError("no such slot")
        group.all_reduce(torch.ones(1))

    with pytest.raises(RankFailed, match="rank 1 of 3: ValueError: no such slot"):
        engine.run(3, program)
    assert engine.run(3, lambda group: group.rank) == [0, 1, 2], "the engine serves the next case"


def test_what_a_rank_breaks_off_all_know_before_they_wait_for_it(engine: Engine) -> None:
    def program(group: RankGroup) -> Refusal | None:
        def step() -> None:
            if group.rank in (1, 2):
                raise StopIteration(f"of rank {group.rank}")

        refusal = attempt(step, group)
        if group.rank == 0 and refusal is None:
            group.all_reduce(torch.ones(1))
        return refusal

    assert [(one.kind, one.message) for one in engine.run(4, program) if one] == [("StopIteration", "of rank 1")] * 4
    assert engine.run(2, lambda group: attempt(lambda: None, group)) == [None, None]


def test_a_rank_that_never_comes_back_is_named_with_where_it_is() -> None:
    engine = ThreadsEngine(watchdog_seconds=0.5)
    released = []

    def program(group: RankGroup) -> None:
        while group.rank == 1 and not released:
            time.sleep(0.01)

    with pytest.raises(RankHung, match=r"(?s)rank 1 of 2 neither ended nor reached a collective.*in program"):
        engine.run(2, program)
    released.append(True)
    assert engine.run(2, lambda group: group.rank) == [0, 1], "the engine serves the next case"


def test_the_same_program_issues_the_same_collectives_every_time(engine: Engine) -> None:
    def program(group: RankGroup) -> list[str]:
        for step in range(3):
            group.all_gather(torch.ones(step + 1))
        return [str(issued) for issued in group.log]

    assert engine.run(4, program) == engine.run(4, program)


def test_a_rank_whose_process_dies_is_named_and_the_pool_is_rebuilt() -> None:
    engine = DistributedEngine("gloo")

    def program(group: RankGroup) -> None:
        if group.rank == 1:
            os._exit(3)
        group.all_reduce(torch.ones(1))

    with pytest.raises(RankLost, match="the process of rank 1 of 3 died with exit code 3"):
        engine.run(3, program)
    assert engine.run(3, lambda group: group.rank) == [0, 1, 2]
    engine.close()


def test_an_interrupt_from_the_keyboard_passes_ranks_by_which_end_when_they_are_told_to() -> None:
    engine = DistributedEngine("gloo")
    ranks = engine.run(2, lambda group: os.getpid())
    processes = engine._pools[2]._processes
    for rank in ranks:
        os.kill(rank, signal.SIGINT)
    assert engine.run(2, lambda group: os.getpid()) == ranks
    engine.close()
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_rank_destroys_its_process_group_when_serving_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def serve(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.setattr(serving, "signal", SimpleNamespace(signal=lambda *_: done.append("deaf"), SIGINT=0, SIG_IGN=0))
    monkeypatch.setattr(serving, "dist", SimpleNamespace(destroy_process_group=lambda: done.append("destroyed")))
    with pytest.raises(MemoryError):
        serving.be_a_rank(0, 2, cast(Connection, None))
    assert done == ["deaf", "destroyed"]


def test_a_process_that_never_comes_back_is_named_and_the_pool_is_rebuilt() -> None:
    engine = DistributedEngine("gloo")
    engine.run(2, lambda group: None)  # starting ranks takes a busy machine longer than what follows
    patience, engine._watchdog = engine._watchdog, 0.5

    def program(group: RankGroup) -> None:
        while group.rank == 1:
            time.sleep(0.01)
        group.all_reduce(torch.ones(1))

    with pytest.raises(RankHung, match=r"ranks \[1\] of 2 neither ended .* rank 0 waits in all_reduce"):
        engine.run(2, program)
    engine._watchdog = patience
    assert engine.run(2, lambda group: group.rank) == [0, 1]
    engine.close()


def test_a_rank_that_hangs_is_an_error_of_its_case_and_the_next_clause_passes() -> None:
    engine = DistributedEngine("gloo")
    engine.run(2, lambda group: None)  # starting ranks takes a busy machine longer than what follows
    engine._watchdog = 0.5
    subject = Subject(ReferenceImplementation(), engine)

    def hangs(subject: Subject, case: Case) -> None:
        def program(rank: RankSession) -> None:
            while rank.group.rank == 1:
                time.sleep(0.01)

        subject.observe(case, program)

    def passes(subject: Subject, case: Case) -> None:
        subject.observe(case, lambda rank: flatten(rank.build().wrap().load().run()))

    case = Case(tp_size=2)
    result = ClauseRun(subject, Budget(1, 0)).check("MATH-1", "hangs", just(case), hangs)
    assert result.verdict is Verdict.ERROR
    assert len(result.errors) == 1
    assert "ranks [1] of 2 neither ended" in result.errors[0]
    assert repr(case) in result.errors[0]
    engine._watchdog = 120
    assert ClauseRun(subject, Budget(1, 0)).check("MATH-1", "passes", just(case), passes).verdict is Verdict.PASS
    engine.close()


def test_a_dead_rank_is_an_error_of_its_clause_and_the_others_are_judged() -> None:
    arguments = ("--engine", "gloo", "--impl", "tests.implementations.broken:LosesARank", "--profile", "quick")
    result = run_suite(*arguments, select="test_unwrapping.py")
    text = shown(result)
    assert result.code == 1, text
    assert "UNWRAP-2  MUST    error" in text
    assert re.search(r"the process of rank 1 of \d died with exit code 3, in Case\(.*tp_size=", text)
    for clause in ("UNWRAP-1", "UNWRAP-3", "UNWRAP-4"):
        assert f"{clause}  MUST    pass" in text


def test_every_exact_case_gives_the_same_bits_on_threads_and_on_processes() -> None:
    gloo = DistributedEngine("gloo")
    subjects = [Subject(ReferenceImplementation(), engine) for engine in (ThreadsEngine(), gloo)]

    def program(rank: RankSession) -> list[torch.Tensor]:
        return flatten(rank.build().wrap().load().run())

    @settings(max_examples=30, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        cases(tp_sizes=(2, 4, 8), regimes=(Regime.EXACT,)).filter(lambda case: not case.subclass.forward.mixes_tokens)
    )  # or the reference may refuse it
    def agree(case: Case) -> None:
        threads, processes = (subject.observe(case, program) for subject in subjects)
        for one, other in zip(threads, processes, strict=True):
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))

    agree()
    gloo.close()


def test_a_collective_on_another_ranks_gpu_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    group = ProcessGroup(1, 2, lambda rank, issued, tensor: [tensor])
    elsewhere: Any = SimpleNamespace(is_cuda=True, device=torch.device("cuda:0"))
    with pytest.raises(ForeignDevice, match=r"rank 1: all_reduce of a tensor on cuda:0, .* is cuda:1"):
        group.announce("all_reduce", elsewhere, None)
