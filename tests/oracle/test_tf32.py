"""Products in TF32 are reported where nobody declared them; declared, they are excused, and nothing coarser is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from benchmarks.power.hunting import clause_tests, reference_subject
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.assertions import assert_merged_equivalence
from conformance.judging.verdicts import Violation
from conformance.subjects.outcomes import NotApplicable
from conformance.values.linear import EXACT_LIMIT, largest_sum, values_of
from strategies.cases import AdapterSpec, Case, Dtype, LayerSpec, Regime
from strategies.experts import ExpertsCase
from tests.mutants import BY_NAME

EXACT = Case(
    layer=LayerSpec(input_size=4, output_sizes=(3,)), max_rank=8, adapters=(AdapterSpec(rank=8, alpha=8.0),), seed=3
)
ROUNDED = replace(EXACT, regime=Regime.ROUNDED)
FOUR_TOKENS = replace(ROUNDED, adapters=(AdapterSpec(alpha=8.0),), tokens=(0, 0, 0, 0))


def declared() -> AbstractContextManager[object]:
    """The context in which the reference declares TF32."""
    return patch.object(ReferenceImplementation, "dtypes", lambda self, device: (Dtype.TF32, Dtype.BFLOAT16))


def fitted(case: Case) -> Case:
    """``case`` as the reference is given it."""
    found = reference_subject().fitted(case)
    assert isinstance(found, Case)
    return found


def test_a_float32_case_is_judged_in_tf32_where_that_is_declared() -> None:
    assert fitted(ROUNDED).dtype is Dtype.FLOAT32
    with declared():
        assert fitted(ROUNDED).dtype is Dtype.TF32
        assert fitted(replace(ROUNDED, dtype=Dtype.BFLOAT16)).dtype is Dtype.BFLOAT16
        assert reference_subject().identity()["float32 products"] == "TF32"
    assert "float32 products" not in reference_subject().identity()


@pytest.mark.parametrize("case", [EXACT, ROUNDED], ids=["exact", "rounded"])
def test_ten_bits_of_each_factor_are_enough_where_tf32_is_declared(case: Case) -> None:
    with BY_NAME["operands-of-ten-bits"].patch(), declared():
        assert_merged_equivalence(reference_subject(), fitted(case))


@pytest.mark.parametrize(
    ("bug", "case"), [("hidden-in-eight-bits", FOUR_TOKENS), ("scaling-off-by-a-quarter-per-cent", EXACT)]
)
def test_a_declaration_excuses_nothing_coarser(bug: str, case: Case) -> None:
    with declared():
        assert_merged_equivalence(reference_subject(), fitted(case))
        with BY_NAME[bug].patch(), pytest.raises(Violation):
            assert_merged_equivalence(reference_subject(), fitted(case))


def test_small_integers_are_drawn_until_tf32_holds_every_sum_of_them() -> None:
    wide = replace(EXACT, layer=LayerSpec(input_size=32, output_sizes=(3,)))
    assert largest_sum(wide, values_of(wide)) > EXACT_LIMIT[Dtype.TF32]
    thinner = replace(wide, dtype=Dtype.TF32)
    assert largest_sum(thinner, values_of(thinner)) <= EXACT_LIMIT[Dtype.TF32]


def test_experts_whose_numbers_need_all_of_float32_are_not_applicable() -> None:
    with declared(), pytest.raises(NotApplicable, match="fewer bits than float32"):
        clause_tests()["MATH-16"].body(reference_subject(), ExpertsCase())


def test_the_reference_declares_what_torch_was_told() -> None:
    assert Dtype.FLOAT32 in ReferenceImplementation().dtypes("cuda")
    torch.set_float32_matmul_precision("high")
    try:
        assert ReferenceImplementation().dtypes("cuda")[0] is Dtype.TF32
        assert ReferenceImplementation().dtypes("cpu")[0] is Dtype.FLOAT32
    finally:
        torch.set_float32_matmul_precision("highest")
