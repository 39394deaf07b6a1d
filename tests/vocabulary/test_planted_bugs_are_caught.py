"""Every planted bug of embeddings and LM heads is seen by its clause, and called by its name in most runs."""

from __future__ import annotations

import pytest

from conformance import test_embeddings
from tests.mutants.planting import Mutant, planted_in
from tests.mutants.seeing import assert_seen
from tests.vocabulary import planted

TESTS = {test.clause: test for test in vars(test_embeddings).values() if hasattr(test, "clause")}
PAIRS = [(mutant, clause) for mutant in planted_in(planted) for clause in mutant.clauses]


@pytest.mark.parametrize("seeds", [3, pytest.param(5, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("mutant", "clause"), PAIRS, ids=[f"{mutant.name}-{clause}" for mutant, clause in PAIRS])
def test_its_clause_sees_it(mutant: Mutant, clause: str, seeds: int) -> None:
    assert_seen(TESTS[clause], mutant, seeds)
