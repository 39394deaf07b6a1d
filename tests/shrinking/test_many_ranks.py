"""A failure on many ranks is told on few where it shows there: it takes less, and less gives the same by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis.strategies import just

from benchmarks.power.hunting import clause_tests, reference_subject
from conformance.judging.verdicts import Violation
from conformance.search.settling import FEW_RANKS, on_few_ranks
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, LayerSpec
from tests.mutants import BY_NAME

ON_MANY = Case(layer=LayerSpec(family=Family.ROW, input_size=128, output_sizes=(2,)), tp_size=32, fully_sharded=True,
               max_loras=2, adapters=(AdapterSpec(), AdapterSpec(slot=1)), tokens=(1, -1))  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def wrong_from(ranks: int) -> Callable[[Subject, Case], None]:
    def judge(subject: Subject, case: Case) -> None:
        if case.tp_size >= ranks:
            raise Violation("unexplained", "wrong", case)

    return judge


def test_what_few_ranks_show_is_run_on_many_twice_at_most() -> None:
    test = clause_tests()["MATH-2"]
    run = []

    def judge(subject: Subject, case: Case) -> None:
        run.append(case.tp_size)
        test.body(subject, case)

    with BY_NAME["tokens-sorted-and-not-put-back"].patch():
        result = ClauseRun(reference_subject(), Budget(20, 0)).check("MATH-2", "many", just(ON_MANY), judge)
    assert [dict(failure.case).get("tp_size", 1) for failure in result.failures] == [1] * max(1, len(result.failures))
    assert sum(size > FEW_RANKS for size in run) <= 2  # once drawn, and once more by Hypothesis


@pytest.mark.parametrize(("needed", "told_on"), [(1, 1), (3, 4), (16, 16), (32, 32)])
def test_a_failure_is_told_on_as_few_ranks_as_show_it(needed: int, told_on: int) -> None:
    found = Violation("unexplained", "wrong", ON_MANY)
    told = on_few_ranks(reference_subject(), "MATH-1", wrong_from(needed), found)
    assert told.case.tp_size == told_on
    assert (told is found) == (told_on == ON_MANY.tp_size)


def test_a_failure_on_few_ranks_is_left_as_it_is() -> None:
    found = Violation("unexplained", "wrong", Case(layer=LayerSpec(input_size=8), tp_size=FEW_RANKS))
    assert on_few_ranks(reference_subject(), "MATH-1", wrong_from(1), found) is found
