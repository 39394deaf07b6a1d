"""A wrong scaling is called so, of one layer and in a model."""

from __future__ import annotations

from itertools import product

import pytest

from benchmarks.power.hunting import hunt, noticing, reference_subject
from tests.manager import planted
from tests.mutants import numbers, wrapping
from tests.mutants.planting import Mutant

NAMED = [
    (numbers.subtracted, "scale-wrong"),
    (numbers.scaling_over_the_rank_once_more, "scale-wrong"),
    (planted.rslora_as_lora, "scale-wrong"),
    (planted.alpha_pattern_ignored, "scale-wrong"),
    (wrapping.interceptions_pile_up, "delta-doubled"),
]


def test_a_root_that_is_left_out_is_called_nothing_else() -> None:
    test, patch = noticing(planted.rslora_as_lora)[-1], planted.rslora_as_lora.patch
    seen = [hunt(test, reference_subject(), seed=seed, patch=patch) for seed in range(10)]
    assert {caught.anomaly for caught in seen if caught is not None} == {"scale-wrong"}


@pytest.mark.parametrize(("mutant", "name"), NAMED, ids=[mutant.name for mutant, _ in NAMED])
def test_the_scaling_is_named(mutant: Mutant, name: str) -> None:
    # The clause's tests are of one layer, and of models; most bugs show in a few cases of one of them.
    hunts = product((20, 250), noticing(mutant), range(5))
    seen = (hunt(test, reference_subject(), seed=seed, patch=mutant.patch, cases=cases) for cases, test, seed in hunts)
    assert name in (caught.anomaly for caught in seen if caught is not None)
