"""Every planted bug of quantized layers is seen by its clause within the default profile, and named."""

from __future__ import annotations

import pytest

from benchmarks.power.hunting import clause_tests, hunt, reference_subject
from tests.mutants.planting import Mutant, planted_in
from tests.quantization import planted

PAIRS = [(mutant, clause) for mutant in planted_in(planted) for clause in mutant.clauses]


@pytest.mark.parametrize("seeds", [2, pytest.param(4, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("mutant", "clause"), PAIRS, ids=[f"{mutant.name}-{clause}" for mutant, clause in PAIRS])
def test_its_clause_sees_it(mutant: Mutant, clause: str, seeds: int) -> None:
    test = clause_tests()[clause]
    catches = [hunt(test, reference_subject(), seed=seed, patch=mutant.patch) for seed in range(seeds)]
    names = [caught.anomaly for caught in catches if caught]
    assert len(names) == len(catches), mutant.story
    assert set(names) <= set(mutant.anomalies), names
