"""What a bug does to some elements only has a name that is computed: cut sums, clamps, parts mixed up, layouts."""

from __future__ import annotations

import pytest

from benchmarks.power.hunting import noticing, reference_subject
from benchmarks.power.sight import drawn
from conformance.search.bodies import violation_of
from tests.manager.planted import layers_are_not_asked
from tests.mutants import layouts, numbers, packing
from tests.mutants.planting import Mutant

NAMED = [
    (numbers.input_columns_beyond_the_eighth, "delta-incomplete"),
    (numbers.the_last_input_column_is_left_out, "delta-incomplete"),
    (numbers.large_results_are_clamped, "result-clamped"),
    (packing.v_takes_the_a_of_k, "slices-swapped"),
    (packing.fused_b_cut_as_one_block, "shard-misplaced"),
    (layouts.strides_overlooked, "layout-dependent"),
    (layers_are_not_asked, "rank-indivisible"),
]


@pytest.mark.parametrize(("mutant", "name"), NAMED, ids=[mutant.name for mutant, _ in NAMED])
def test_it_is_called_what_it_does(mutant: Mutant, name: str) -> None:
    subject = reference_subject()
    with mutant.patch():
        seen = (
            violation_of(subject, test.body, case, blaming=test.clause)
            for test in noticing(mutant)
            for case in drawn(test, seed=0)
        )
        assert any(found is not None and found.anomaly == name for found in seen)
