"""Every simplification of a drawn case is one that the reference serves rightly: no finding shrinks into a lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from benchmarks.power.hunting import ClauseTest, suite_tests
from benchmarks.steps import faults

SIMPLIFIED = tuple(test for test in suite_tests() if not test.clause.startswith(("MATH-14", "MATH-15")))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("test", SIMPLIFIED, ids=lambda test: f"{test.clause}-{test.name}")
def test_the_reference_serves_every_step(test: ClauseTest) -> None:
    judged: Counter[str] = Counter()
    assert list(faults((test,), cases=3, most=8, seed=0, judged=judged)) == []
