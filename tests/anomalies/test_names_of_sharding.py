"""MATH-6 names mistakes of sharding, of a layer that gathers its output too, and leaves base layers `tp-dependent`."""

from __future__ import annotations

import pytest

from benchmarks.power.hunting import clause_tests, hunt, reference_subject
from tests.mutants import gathering, sharding
from tests.mutants.planting import Mutant

NAMED = [
    (sharding.first_ranks_rows_of_b, "shard-misplaced"),
    (sharding.ranks_in_reverse, "shard-misplaced"),
    (sharding.columns_of_a_dealt_in_turn, "shard-misplaced"),
    (sharding.every_rank_expands_the_first_columns, "shard-misplaced"),
    (gathering.no_gather_just_copies, "gather-skipped"),
    (gathering.no_sum_of_the_hidden, "gather-skipped"),
    (gathering.gathered_in_reverse, "gather-misordered"),
    (gathering.the_base_layer_gathers_in_reverse, "tp-dependent"),
]


@pytest.mark.parametrize(("mutant", "name"), NAMED, ids=[mutant.name for mutant, _ in NAMED])
def test_the_mistake_is_named(mutant: Mutant, name: str) -> None:
    subject, test = reference_subject(), clause_tests()["MATH-6"]
    seen = (hunt(test, subject, seed=seed, patch=mutant.patch) for seed in range(5))
    assert name in (caught.anomaly for caught in seen if caught is not None)
