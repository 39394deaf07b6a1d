"""What a whole model's module got wrong has the name of the mistake, also where numbers were rounded on the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conformance.implementations.models import OUTPUT, ROWS
from conformance.judging.anomalies.models import UNEXPLAINED, VANISHED, PartDifference, explain
from conformance.judging.models import differences

ADDED = torch.tensor([[0.875, -0.25], [0.0, 0.5]])


def name_of(want: Tensor, got: Tensor) -> str:
    return explain(PartDifference("embed_tokens", ROWS, 0, want, got), {}, [])


@pytest.mark.parametrize("hidden", [64, 96])
def test_what_is_added_unscaled_is_so_whether_the_scale_rounds_or_not(hidden: int) -> None:
    weight = torch.tensor([[3.0, 1.5], [-2.0, 0.125]])
    scaled = (weight + ADDED) * hidden**0.5 - weight * hidden**0.5
    assert name_of(scaled, ADDED) == "scale-wrong"


def test_numbers_of_several_ratios_are_no_scale() -> None:
    assert name_of(ADDED * torch.tensor([2.0, 3.0]), ADDED) == UNEXPLAINED


def test_padding_without_numbers_hides_no_name() -> None:
    """Qwen4Exp's hyper connections round their rows up to sixteen, and nobody writes into the last ones."""
    padding = torch.full((2, 3), torch.nan)
    bare, merged = (torch.cat([rows, padding], dim=1) for rows in (torch.zeros_like(ADDED), ADDED))
    base, want = ({"down": {OUTPUT: one}} for one in (bare, merged))
    (lost,) = differences(base, want, base, 0)
    assert (lost.place, explain(lost, {}, [])) == ((0, 0), VANISHED)
    assert differences(base, want, want, 0) == []
    (overwritten,) = differences(base, want, {"down": {OUTPUT: merged.nan_to_num(1.0)}}, 0)
    assert overwritten.place == (0, 2)
