"""The detection power that a certificate states is what the comparison really rejects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.assertions import first_difference
from conformance.judging.measuring import measuring
from conformance.oracles.linear import Expected, expected_of
from conformance.subjects.subject import Subject
from strategies.cases import Case, Dtype, LayerSpec, Regime

SUBJECT = Subject(ReferenceImplementation(), ThreadsEngine())
ROUNDED = Case(layer=LayerSpec(input_size=5, output_sizes=(4,)), regime=Regime.ROUNDED, tokens=(0, 0), seed=3)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_in_the_rounded_regime_more_is_rejected_and_half_of_it_is_not(dtype: Dtype) -> None:
    case = replace(ROUNDED, dtype=dtype)
    (right,) = expected_of(SUBJECT, case)
    with measuring() as measure:
        assert first_difference(case, [right.values[0].clone()], right) is None
    elements = range(right.values[0].numel())
    assert any(_rejected(case, right, index, 1.01 * measure.smallest) for index in elements)
    assert not any(_rejected(case, right, index, 0.5 * measure.smallest) for index in elements)


def _rejected(case: Case, right: Expected, index: int, share: float) -> bool:
    planted = right.values[0].clone()
    planted.view(-1)[index] += share * right.magnitudes[0].abs().view(-1)[index]
    return first_difference(case, [planted], right) is not None


def test_in_the_exact_regime_one_unit_in_the_last_place_is_rejected() -> None:
    case = replace(ROUNDED, regime=Regime.EXACT)
    (right,) = expected_of(SUBJECT, case)
    values = right.values[0].float()
    for index in range(values.numel()):
        planted = values.clone()
        flat = planted.view(-1)
        flat[index] = torch.nextafter(flat[index], torch.tensor(float("inf")))
        assert first_difference(case, [planted], right) is not None
