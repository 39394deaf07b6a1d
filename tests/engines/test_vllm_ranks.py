"""vLLM on real ranks: its own groups and collectives, which give the bits that threads give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from conformance.engines.distributed import DistributedEngine
from conformance.engines.ranks import CollectiveMismatch, RankGroup
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.vllm import VllmImplementation
from conformance.implementations.vllm.runtime import runtime
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import NotWrapped, SubjectRaised, SubjectRefused
from conformance.subjects.subject import Subject
from strategies.cases import Case, Regime
from strategies.drawing import cases

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def gloo() -> Iterator[Subject]:
    implementation = VllmImplementation()
    implementation.layers.prepare()
    engine = DistributedEngine("gloo")
    yield Subject(implementation, engine)
    engine.close()


def test_the_ranks_have_groups_of_vllms_own(gloo: Subject) -> None:
    def program(group: RankGroup) -> tuple[str, str, int, float]:
        with gloo.implementation.layers.ranked(group):
            own = runtime().parallel_state.get_tp_group()
            total = own.all_reduce(torch.full((1,), float(group.rank)))
        return type(own).__name__, type(own.device_communicator).__name__, own.world_size, float(total)

    assert gloo.engine.run(4, program) == [("GroupCoordinator", "CpuCommunicator", 4, 6.0)] * 4


def test_vllms_own_collectives_that_do_not_match_are_a_finding(gloo: Subject) -> None:
    def program(group: RankGroup) -> None:
        with gloo.implementation.layers.ranked(group):
            runtime().parallel_state.get_tp_group().all_reduce(torch.ones(1 + group.rank))

    with pytest.raises(CollectiveMismatch, match=r"rank 0 issued all_reduce.* at .*test_vllm_ranks.py"):
        gloo.engine.run(2, program)


def test_every_exact_case_comes_to_the_same_on_threads_and_on_processes(gloo: Subject) -> None:
    threads = Subject(gloo.implementation, ThreadsEngine())
    compared = []

    @settings(max_examples=80, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(tp_sizes=(2, 4), regimes=(Regime.EXACT,)))
    def agree(case: Case) -> None:
        if gloo.implementation.unsupported(case) is None:
            one, other = (outcome(subject, case) for subject in (threads, gloo))
            assert same(one, other), (one, other)
            compared.append(isinstance(one, list))

    agree()
    assert sum(compared) >= 20, "enough cases ran to their end"


def outcome(subject: Subject, case: Case) -> list[list[torch.Tensor]] | str:
    """Every rank's outputs, or what became of the case instead."""

    def program(rank: RankSession) -> list[torch.Tensor]:
        return flatten(rank.build().wrap().load().run())

    try:
        return subject.observe(case, program)
    except (NotWrapped, SubjectRefused, SubjectRaised, CollectiveMismatch) as error:
        return f"{type(error).__name__}: {error}"


def same(one: list[list[torch.Tensor]] | str, other: list[list[torch.Tensor]] | str) -> bool:
    """Whether outputs have the same bits, or what was said is the same."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    pairs = [pair for outputs in zip(one, other, strict=True) for pair in zip(*outputs, strict=True)]
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
