"""Every planted bug of whole models is found within the default profile, and called by a name that tells."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from statistics import median

import pytest
import torch

from benchmarks.power.hunting import CASES, ClauseTest, hunt, reference_subject
from conformance import test_lifecycle, test_targets, test_warmup_rank
from conformance.subjects.subject import Subject
from tests.manager.planted import MUTANTS
from tests.mutants.planting import Mutant

TESTS = [
    ClauseTest(test.clause, test.__name__, test.strategy, test.body)
    for module in (test_lifecycle, test_targets, test_warmup_rank)
    for test in vars(module).values()
    if inspect.isfunction(test) and hasattr(test, "clause")
]


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    yield reference_subject()
    torch.set_num_threads(threads)
    torch.set_grad_enabled(gradients)


@pytest.mark.parametrize("runs", [3, pytest.param(10, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_run_of_the_default_profile_notices_and_most_within_thirty_cases(
    mutant: Mutant, runs: int, subject: Subject
) -> None:
    tests = [test for test in TESTS if test.clause == mutant.clauses[0]]
    # The clause's test that notices, by its first cases where they tell.
    tried = (hunt(test, subject, seed=0, patch=mutant.patch, cases=cases) for cases in (20, CASES) for test in tests)
    first = next(filter(None, tried), None)
    assert first is not None, f"{mutant.name} ({mutant.story}) survives {mutant.clauses[0]}"
    catches = [first, *(hunt(first.test, subject, seed=seed, patch=mutant.patch) for seed in range(1, runs))]
    assert None not in catches, f"{mutant.name} ({mutant.story}) survives seeds of {mutant.clauses[0]}"
    names = [catch.anomaly for catch in catches if catch]
    assert sum(name in mutant.anomalies for name in names) >= runs // 2, names  # one case may look like another
    # Thirty, and an eighth more: so many cases are of a large size.
    assert median(catch.cases for catch in catches if catch) < 34


def test_every_clause_of_whole_models_has_two_bugs_that_it_notices() -> None:
    noticed = Counter(clause for mutant in MUTANTS for clause in mutant.clauses)
    clauses = {test.clause for test in TESTS if test.clause.startswith(("TARGET", "LIFE"))}
    assert [clause for clause in sorted(clauses) if noticed[clause] < 2] == []
