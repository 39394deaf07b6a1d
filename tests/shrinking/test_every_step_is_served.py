"""Every simplification of a drawn case is one that the reference serves rightly: no finding shrinks into a lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from benchmarks.power.hunting import ClauseTest, clause_tests, reference_subject, suite_tests
from benchmarks.steps import fault_of, faults, steps_of
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, LayerSpec

SIMPLIFIED = tuple(test for test in suite_tests() if not test.clause.startswith(("MATH-14", "MATH-15")))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("cases", [2, pytest.param(4, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("test", SIMPLIFIED, ids=lambda test: f"{test.clause}-{test.name}")
def test_the_reference_serves_every_step(test: ClauseTest, cases: int) -> None:
    judged: Counter[str] = Counter()
    assert list(faults((test,), cases=cases, most=8, seed=0, judged=judged)) == []


def test_a_step_that_makes_a_layer_parallel_breaks_no_clause_about_those_that_are_not() -> None:
    layer = LayerSpec(Family.ROW, input_size=4, output_sizes=(3,), disable_tp=True)
    case = Case(layer, tp_size=2, fully_sharded=True, adapters=(AdapterSpec(rank=2),), max_rank=2)
    steps = steps_of(case, 1000, seed=0)
    assert any(step.layer_tp_size > 1 for step in steps if isinstance(step, Case))
    judged = [fault_of(clause_tests()["COMM-2"], reference_subject(), step) for step in (case, *steps)]
    assert judged == [""] * len(judged)
