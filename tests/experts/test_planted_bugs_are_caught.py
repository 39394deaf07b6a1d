"""Every planted bug of mixtures of experts is seen by its clause, and called by its name in most runs."""

from __future__ import annotations

import pytest

from benchmarks.power.hunting import ClauseTest, hunt, reference_subject
from conformance import test_experts
from tests.experts import planted
from tests.mutants.planting import Mutant, planted_in

TESTS = {test.clause: test for test in vars(test_experts).values() if hasattr(test, "clause")}
PAIRS = [(mutant, clause) for mutant in planted_in(planted) for clause in mutant.clauses]


# One case alone may look like another mistake.
@pytest.mark.parametrize("seeds", [3, pytest.param(5, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("mutant", "clause"), PAIRS, ids=[f"{mutant.name}-{clause}" for mutant, clause in PAIRS])
def test_its_clause_sees_it(mutant: Mutant, clause: str, seeds: int) -> None:
    test = TESTS[clause]
    one = ClauseTest(clause, test.__name__, test.strategy, test.body)
    caught = [hunt(one, reference_subject(), seed=seed, patch=mutant.patch) for seed in range(seeds)]
    assert None not in caught, mutant.story
    names = [catch.anomaly for catch in caught if catch]
    assert sum(name in mutant.anomalies for name in names) > seeds / 2, names
