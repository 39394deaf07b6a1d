"""A planted bug's first failing case, however large, settles to the least one that can show it.

Hypothesis does not shrink here: what it leaves undone must not decide how small a regression file is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.power.hunting import ClauseTest, clause_tests, reference_subject
from conformance.regressions.bodies import violation_of
from conformance.regressions.settling import plainest
from conformance.subject import Subject
from conformance.verdicts import Violation
from strategies.cases import Case
from tests.mutants import MUTANTS

CASES = 300
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


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
}


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield reference_subject()


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


@pytest.mark.parametrize("name", LEAST)
def test_the_settled_case_is_the_least(name: str, subject: Subject) -> None:
    mutant, least = BY_NAME[name], LEAST[name]
    test = clause_tests()[mutant.clauses[0]]
    with mutant.patch():
        found = first_failure(test, subject)
        smallest = plainest(subject, test.clause, test.body, found)[0].case
    assert isinstance(smallest, Case)
    left = Least(
        tp_size=smallest.tp_size,
        rank=max(adapter.rank for adapter in smallest.adapters),
        tokens=len(smallest.tokens),
        slices=len(smallest.layer.output_sizes),
        depth=smallest.subclass.depth,
        adapters=len(smallest.adapters),
    )
    assert left == least, f"{found.case!r} settled to {smallest!r}"
