"""Every planted bug is caught by a clause that is said to notice it; a check that cannot fail is a defect."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from benchmarks.power.hunting import CASES, clause_tests, hunt, noticing, reference_subject
from benchmarks.power.planted import PLANTED
from conformance.subjects.subject import Subject
from tests.mutants import MUTANTS, Mutant

SEED = 0
PROFILES = (20, CASES)  # cases a clause: quick and default


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    yield reference_subject()
    torch.set_num_threads(threads)
    torch.set_grad_enabled(gradients)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_clause_notices(mutant: Mutant, subject: Subject) -> None:
    errors = "error" in mutant.anomalies
    judge = reference_subject(watchdog_seconds=2.0) if errors else subject
    for cases, test in itertools.product(
        PROFILES, noticing(mutant)
    ):  # many bugs show in the first cases of a later test
        if hunt(test, judge, seed=SEED, patch=mutant.patch, cases=cases, errors=errors, named=False) is not None:
            return
    pytest.fail(f"{mutant.name} ({mutant.story}) survives {', '.join(mutant.clauses)}")


def test_the_reference_without_a_bug_is_noticed_by_none(subject: Subject) -> None:
    for clause in ("MATH-1", "WRAP-4", "COMM-1"):
        assert hunt(clause_tests()[clause], subject, seed=SEED, cases=20) is None


def test_every_clause_has_two_bugs_that_it_is_said_to_notice() -> None:
    noticed = Counter(clause for mutant in PLANTED for clause in mutant.clauses)
    assert [clause for clause in clause_tests() if noticed[clause] < 2] == []


def test_names_are_unique_and_clauses_exist() -> None:
    assert [name for name, count in Counter(mutant.name for mutant in PLANTED).items() if count > 1] == []
    assert {clause for mutant in PLANTED for clause in mutant.clauses} <= set(clause_tests())
