"""MATH-16 and RANK-6: mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.experts import ExpertsServer
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.experts import explain
from conformance.judging.assertions import assert_equal, raising
from conformance.judging.facts import AFTER_A_RESET, Aspect, Difference, Place
from conformance.judging.verdicts import Violation
from conformance.oracles.experts import dense
from conformance.subjects.outcomes import NotApplicable, NotExercised
from conformance.subjects.reused_slots import served
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from conformance.values.experts import ExpertsTensors, tensors_of
from strategies.cases import Dtype
from strategies.experts import ExpertsCase, experts_cases

T = TypeVar("T")


def observed(subject: Subject, case: ExpertsCase, program: Callable[[ExpertsServer, ExpertsTensors], T]) -> list[T]:
    """Runs ``program`` on every rank.

    Raises:
        NotApplicable: the implementation is not driven on experts.
    """
    __tracebackhide__ = True
    serve = getattr(subject.implementation, "experts", None)
    if serve is None:
        why = getattr(subject.implementation, "why_no_experts", "it is not driven on mixtures of experts")
        raise NotApplicable(why)
    if Dtype.FLOAT32 not in subject.implementation.dtypes(subject.device):
        raise NotApplicable("its products keep fewer bits than float32 has, and the numbers of experts need them")
    given = tensors_of(case)

    def on_rank(group: RankGroup) -> T:
        tensors = given.to(subject.device)  # in the rank, which may have a GPU of its own
        return program(serve(case, tensors.weights, group), tensors)

    with raising(case):
        return subject.engine.run(case.tp_size, on_rank)


@dataclass(frozen=True, slots=True)
class Served:
    """What one rank gives: bare, with adapters, and after they were reset."""

    bare: Tensor
    output: Tensor
    emptied: Tensor


def _served(subject: Subject, case: ExpertsCase) -> list[Served]:
    """What every rank gives; nothing is reset where slots held nothing before."""
    __tracebackhide__ = True

    def program(server: ExpertsServer, tensors: ExpertsTensors) -> Served:
        bare = server.bare(tensors.routed).to("cpu", copy=True)
        slots = [spec.slot for spec in case.adapters]
        run = partial(server.run, case.token_slots, tensors.routed)
        output, emptied = served(server, run, slots, tensors.adapters, tensors.former)
        return Served(bare, output, bare if emptied is None else emptied)

    return observed(subject, case, program)


def _differ(seen: list[Served], right: Tensor) -> bool:
    outputs = [one.output for one in seen]
    return any(one.shape == right.shape and not torch.equal(one.double(), right.double()) for one in outputs)


@check("MATH-16", experts_cases())
def test_every_token_gets_its_adapter_in_each_of_its_experts(subject: Subject, case: ExpertsCase) -> None:
    seen = _served(subject, case)
    tensors = tensors_of(case)
    right, plain = dense(case, tensors), dense(case, tensors, adapted=False)
    for rank, one in enumerate(seen):
        assert_equal(case, one.bare, plain, Place(rank=rank, setting="bare"), "base-changed")
    name = UNEXPLAINED
    if _differ(seen, right):
        fresh = _served(subject, replace(case, reused=False)) if case.reused else seen
        name = explain(case, tensors, [one.output for one in seen]) if _differ(fresh, right) else "stale-slot"
    for rank, one in enumerate(seen):
        assert_equal(case, one.output, right, Place(rank=rank), name)
        assert_equal(case, one.emptied, plain, Place(rank=rank), "stale-slot", after=AFTER_A_RESET)
    if torch.equal(right, plain) and case.tokens and -1 not in case.tokens:
        raise NotExercised("the adapters change nothing")


@check("RANK-6", experts_cases())
def test_the_warm_up_rank_counts_experts_and_its_dummy_changes_nothing(subject: Subject, case: ExpertsCase) -> None:
    largest = 8 * case.max_rank

    def program(server: ExpertsServer, tensors: ExpertsTensors) -> tuple[int, Tensor, Tensor]:
        bare = server.bare(tensors.routed).to("cpu", copy=True)
        rank = server.warmup_rank(default=case.max_rank, max_lora_rank=largest)
        for spec in case.adapters:
            server.load_dummy(spec.slot, min(rank, case.max_rank))
        return rank, bare, server.run(case.token_slots, tensors.routed).cpu()

    right = -(-case.max_rank // case.rank_shards) * case.rank_shards
    for where, (rank, bare, output) in enumerate(observed(subject, case, program)):
        if rank % case.rank_shards:
            difference = Difference(Aspect.RANK, rank, f"a multiple of {case.rank_shards}")
            raise Violation("rank-indivisible", difference, case)
        if rank != right:
            raise Violation("rank-not-smallest", Difference(Aspect.RANK, rank, right), case)
        assert_equal(case, output + 0.0, bare + 0.0, Place(rank=where, setting="warmed up"), "adapter-leak")
