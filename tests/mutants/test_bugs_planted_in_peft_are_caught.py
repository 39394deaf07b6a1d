"""Bugs planted in PEFT's LoRA layers are caught by the clause that is said to notice them, where PEFT is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import Phase

from benchmarks.power.hunting import ClauseTest, suite_tests
from conformance import test_merging
from conformance.engines.threads import ThreadsEngine
from conformance.judging.verdicts import Violation
from conformance.search.drawing import draw_cases
from conformance.subjects.outcomes import NotExercised, NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from strategies.codec import Spec
from tests.mutants.peft_planted import PEFT_MUTANTS
from tests.mutants.planting import Mutant

CASES = 100


class _Caught(BaseException):
    def __init__(self, anomaly: str) -> None:
        self.anomaly = anomaly


@pytest.fixture(scope="module")
def peft() -> Iterator[Subject]:
    from conformance.implementations.peft import PeftImplementation

    torch.set_grad_enabled(False)
    yield Subject(PeftImplementation(), ThreadsEngine())
    torch.set_grad_enabled(True)


def properties_of(clause: str) -> list[ClauseTest]:
    """The tests of a clause; those of merging are no part of what the reference is measured by."""
    found = [test for test in suite_tests() if test.clause == clause]
    merging: Any = test_merging.test_merged_weights_give_what_they_should_and_can_be_unmerged
    return found or [ClauseTest(merging.clause, merging.__name__, merging.strategy, merging.body)]


@pytest.mark.parametrize("mutant", PEFT_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_clause_notices_and_names_it(mutant: Mutant, peft: Subject) -> None:
    seen = [notices(test, mutant, peft) for clause in mutant.clauses for test in properties_of(clause)]
    assert {*seen} & {*mutant.anomalies}, f"{mutant.story} {seen}"


def test_each_clause_of_its_own_has_two_bugs() -> None:
    assert Counter(clause for mutant in PEFT_MUTANTS for clause in mutant.clauses)["MATH-18"] >= 2


def notices(test: ClauseTest, mutant: Mutant, peft: Subject) -> str | None:
    """What the first case is called that PEFT serves rightly without the mutant, and not with it."""

    def judge(drawn: Spec) -> None:
        case = peft.fitted(drawn)
        if broken(test, case, peft) is None:
            with mutant.patch():
                found = broken(test, case, peft)
            if found is not None:
                raise _Caught(found)

    try:
        draw_cases(test.strategy, judge, examples=CASES, seed=0, phases=(Phase.generate,))
    except _Caught as caught:
        return caught.anomaly
    return None


def broken(test: ClauseTest, case: Spec, peft: Subject) -> str | None:
    """How the case breaks the clause, if it does."""
    try:
        test.body(peft, case)
    except Violation as found:
        return found.anomaly
    except (NotExercised, NotWrapped, SubjectRefused):
        pass
    return None
