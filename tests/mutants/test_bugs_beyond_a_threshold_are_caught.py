"""A bug that shows only beyond a size is caught, as far as docs/results/power.md says that the suite sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.power.sight import caught_by
from tests.mutants.thresholds import TEMPLATES, Beyond, planted


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_a_default_run_sees_it(bug: Beyond) -> None:
    assert caught_by(bug, seed=0) is not None, bug.template.story


def test_there_are_five_of_each_dimension() -> None:
    assert {one.dimension: one.sizes for one in TEMPLATES if len(one.sizes) < 5} == {}
    assert sum(len(one.sizes) for one in TEMPLATES) >= 40
