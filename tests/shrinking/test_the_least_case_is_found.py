"""A planted bug's first failing case, however large, settles to the least one that can show it.

Hypothesis does not shrink here: what it leaves undone must not decide how small a regression file is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import median

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.power.hunting import ClauseTest, noticing, reference_subject
from conformance.judging.verdicts import Failure, Violation
from conformance.regressions.entries import Entry, StoredFailure
from conformance.search.bodies import judges, violation_of
from conformance.search.settling import plainest
from conformance.subjects.subject import Subject
from conformance.test_files.writer import write_all
from conformance.values.linear import values_of
from strategies.cases import Case
from tests.mutants import BY_NAME

CASES = 300


@dataclass(frozen=True, slots=True)
class Least:
    """The most of each that may be left of a case."""

    tp_size: int = 1
    rank: int = 1
    tokens: int = 1
    slices: int = 1
    depth: int = 0
    adapters: int = 1


LEAST = {
    "exact-type-dispatch": Least(depth=1),
    "only-direct-children": Least(depth=1),
    "only-first-bases": Least(depth=1),
    "own-forwards-left-alone": Least(depth=1),
    "output-cast-to-the-weights-dtype": Least(depth=1),
    "always-a-pair": Least(),
    "a-second-wrap-adds-again": Least(),
    "first-ranks-columns-of-a": Least(tp_size=2),
    "remainder-of-the-rank-lost": Least(tp_size=2),
    "no-sum-of-the-hidden": Least(tp_size=2),
    "fused-a-for-the-first-slice-only": Least(slices=2),
    "padding-of-a-not-cleared": Least(),
    "minus-one-is-the-last-slot": Least(tokens=2),
    "tokens-beyond-the-fourth": Least(tokens=5),
    "rank-beyond-sixteen-is-lost": Least(rank=17),
    "never-added": Least(),
    "scaling-lost": Least(),
    "no-bias-with-adapters": Least(),
    "bias-on-every-rank": Least(tp_size=2),
    "the-last-rank-does-not-gather": Least(tp_size=2),
    # On two ranks replicated heads are one and the same; of rank 1 their rows of a small integer LoRA B are alike.
    "every-rank-has-the-first-kv-head": Least(tp_size=4, slices=3, rank=2),
    "absent-members-shift-the-others": Least(slices=2),
    "input-columns-beyond-the-eighth": Least(),
    # Of rank 1 and width 1 all adapters are alike.
    "slots-share-their-last": Least(rank=2, adapters=2),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


class _First(BaseException):
    """Ends the search at the first failure, unshrunk."""


def first_failure(test: ClauseTest, subject: Subject) -> Violation:
    found: list[Violation] = []

    @hypothesis.seed(1)
    @settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=test.strategy)
    def search(case: Case) -> None:
        if subject.implementation.unsupported(case) is None:
            violation = violation_of(subject, test.body, case, blaming=test.clause)
            if violation is not None:
                found.append(violation)
                raise _First

    with pytest.raises(_First):
        search()
    return found[0]


@cache
def settled(name: str) -> tuple[Violation, Violation]:
    """The first failure that a planted bug shows, and what it settles to."""
    mutant, subject = BY_NAME[name], reference_subject()
    test = next(test for test in noticing(mutant) if judges(test.body, Case()))
    with mutant.patch():
        found = first_failure(test, subject)
        return found, plainest(subject, test.clause, test.body, found)[0]


@pytest.mark.parametrize("name", LEAST)
def test_the_settled_case_is_the_least(name: str) -> None:
    found, smallest = settled(name)
    case = smallest.case
    assert isinstance(case, Case)
    left = Least(
        tp_size=case.tp_size,
        rank=max(adapter.rank for adapter in case.adapters),
        tokens=len(case.tokens),
        slices=len(case.layer.output_sizes),
        depth=case.subclass.depth,
        adapters=len(case.adapters),
    )
    assert left == LEAST[name], f"{found.case!r} settled to {case!r}"


def elements(case: Case) -> int:
    """Numbers in the weights, adapters and inputs of a case."""
    tensors = values_of(case)
    loaded = [part for adapter in tensors.adapters for part in adapter.parts if part is not None]
    every = [*tensors.weights, *tensors.biases, tensors.inputs[0], *(t for p in loaded for t in (p.lora_a, p.lora_b))]
    return sum(tensor.numel() for tensor in every)


def test_the_files_of_the_settled_cases_are_short() -> None:
    sizes = [elements(settled(name)[1].case) for name in LEAST]
    failures = [Failure.of(BY_NAME[name].clauses[0], settled(name)[1]) for name in LEAST]
    given = [
        (Entry(one.case, one.shown, (stored,)), stored)
        for one in failures
        for stored in [StoredFailure(one.clause, one.anomaly, one.message, "reference", seen=one.seen)]
    ]
    ours, plain = ([str(text).count("\n") for text in texts] for texts in zip(*write_all(given), strict=True))
    for numbers, (middle, most) in zip((sizes, ours, plain), ((5, 60), (32, 79), (49, 86)), strict=True):
        assert median(numbers) <= middle, numbers
        assert max(numbers) <= most, numbers
