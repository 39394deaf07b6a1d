"""The bound accepts what a right kernel gives, and how small a wrong thing it rejects is written down here."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from benchmarks.power.hunting import reference_subject
from conformance.judging.assertions import assert_merged_equivalence, first_difference
from conformance.judging.verdicts import Violation
from conformance.oracles.linear import error_bound, expected_of
from strategies.cases import AdapterSpec, Case, Dtype, LayerSpec, Regime
from strategies.drawing import cases
from tests.mutants import BY_NAME

PLAIN = Case(
    layer=LayerSpec(input_size=4, output_sizes=(3,)), max_rank=8, adapters=(AdapterSpec(rank=8, alpha=8.0),),
    regime=Regime.ROUNDED, seed=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "smallest"),
    [(Dtype.FLOAT32, 2.0**-19), (Dtype.TF32, 2.0**-7.9), (Dtype.FLOAT16, 2.0**-7.5), (Dtype.BFLOAT16, 2.0**-4.9)],
)
def test_the_smallest_relative_mistake_that_is_always_rejected(dtype: Dtype, smallest: float) -> None:
    case = replace(PLAIN, dtype=dtype)
    (right,) = expected_of(reference_subject(), case)
    wrong = [value + smallest * magnitude for value, magnitude in zip(right.values, right.magnitudes, strict=True)]
    assert first_difference(case, wrong, right) is not None
    near = [value + magnitude * smallest / 4 for value, magnitude in zip(right.values, right.magnitudes, strict=True)]
    assert first_difference(case, near, right) is None


def test_in_the_exact_regime_the_last_bit_of_one_element_is_rejected() -> None:
    case = replace(PLAIN, regime=Regime.EXACT)
    (right,) = expected_of(reference_subject(), case)
    output = right.values[0].float()
    assert first_difference(case, [output], right) is None
    output[0, -1] = torch.nextafter(output[0, -1], torch.tensor(torch.inf))
    assert "out0[0, 2]" in str(first_difference(case, [output], right))


def test_nan_and_a_wrong_shape_are_rejected() -> None:
    (right,) = expected_of(reference_subject(), PLAIN)
    output = right.values[0].clone()
    output[0, 0] = torch.nan
    assert first_difference(PLAIN, [output], right) is not None
    assert "shape" in str(first_difference(PLAIN, [output[:, :1]], right))
    assert "tensors returned" in str(first_difference(PLAIN, [], right))


@hypothesis.seed(0)
@settings(max_examples=100, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(regimes=(Regime.ROUNDED,), tp_sizes=(1, 2)))
def test_the_bound_is_a_small_part_of_the_magnitude(case: Case) -> None:
    part = float(error_bound(case, torch.ones(1, dtype=torch.float64)))
    assert part < {Dtype.FLOAT32: 1e-5, Dtype.FLOAT16: 6e-3, Dtype.BFLOAT16: 5e-2}[case.dtype]


_SHOWN_BY = {
    "never-added": (PLAIN, "delta-dropped"),
    "added-twice": (PLAIN, "delta-doubled"),
    "scaling-lost": (replace(PLAIN, adapters=(AdapterSpec(rank=8, alpha=32.0),)), "scale-dropped"),
    "scaling-applied-twice": (replace(PLAIN, adapters=(AdapterSpec(rank=8, alpha=32.0),)), "scale-twice"),
    "scaling-off-by-a-quarter-per-cent": (PLAIN, "scale-wrong"),
    "subtracted": (PLAIN, "scale-wrong"),
    "the-first-column-is-left-out": (PLAIN, "delta-incomplete"),
    "operands-of-ten-bits": (PLAIN, "delta-imprecise"),
    "rows-of-b-in-reverse": (PLAIN, "delta-misplaced"),
    "no-adapter-is-the-first-slot": (replace(PLAIN, tokens=(0, -1)), "adapter-leak"),
    "the-first-tokens-adapter-for-all": (
        replace(PLAIN, max_loras=2, adapters=(*PLAIN.adapters, AdapterSpec(slot=1)), tokens=(0, 1)), "wrong-slot",
    ),
    "bias-added-again": (replace(PLAIN, layer=replace(PLAIN.layer, bias=True)), "bias-doubled"),
    "no-bias-with-adapters": (replace(PLAIN, layer=replace(PLAIN.layer, bias=True)), "bias-dropped"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(_SHOWN_BY))
def test_what_went_wrong_is_called_by_its_name(name: str) -> None:
    case, anomaly = _SHOWN_BY[name]
    assert_merged_equivalence(reference_subject(), case)
    with BY_NAME[name].patch(), pytest.raises(Violation) as caught:
        assert_merged_equivalence(reference_subject(), case)
    assert caught.value.anomaly == anomaly
