"""A bug that shows only beyond a size is caught, as far as docs/results/power.md says that the suite sees."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import pytest
import torch

from benchmarks.power.sight import caught_by
from tests.mutants.thresholds import TEMPLATES, Beyond, planted


def name_of(bug: Beyond) -> str:
    return bug.name


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


# By default the largest of each dimension, which is the hardest to see.
LARGEST = [max(bugs, key=lambda bug: bug.size) for _, bugs in groupby(planted(), key=lambda bug: bug.template)]
SMALLER = [bug for bug in planted() if bug not in LARGEST]


@pytest.mark.parametrize(
    "bug", LARGEST + [pytest.param(bug, marks=pytest.mark.thorough) for bug in SMALLER], ids=name_of
)
def test_a_default_run_sees_it(bug: Beyond) -> None:
    assert caught_by(bug, seed=0) is not None, bug.template.story


def test_there_are_five_of_each_dimension() -> None:
    assert {one.dimension: one.sizes for one in TEMPLATES if len(one.sizes) < 5} == {}
    assert sum(len(one.sizes) for one in TEMPLATES) >= 40
