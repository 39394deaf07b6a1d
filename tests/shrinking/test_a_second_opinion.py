"""What calls the subject wrong must call right what is right; otherwise the harness is at fault, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis.strategies import just

from benchmarks.power.hunting import clause_tests, reference_subject
from conformance.engines.threads import ThreadsEngine
from conformance.judging.assertions import assert_merged_equivalence
from conformance.judging.verdicts import Verdict, Violation
from conformance.oracles.twin import twin_of
from conformance.regressions.recorder import Recorder
from conformance.regressions.store import Store
from conformance.search import second_opinion
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from strategies.cases import AdapterSpec, Case, Dtype, LayerSpec, Regime
from tests.implementations.broken import DropsOneAdapterOfMany
from tests.mutants import BY_NAME

ROUNDED = Case(layer=LayerSpec(input_size=4, output_sizes=(3,), bias=True), adapters=(AdapterSpec(alpha=0.3),),
               regime=Regime.ROUNDED)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def calls_everything_wrong(subject: Subject, case: Case) -> None:
    raise Violation("unexplained", "wrong, they say", case)


def run_of(subject: Subject, folder: Path) -> ClauseRun:
    recorder = Recorder(Store(folder), "any", subject.implementation.identity())
    return ClauseRun(subject, Budget(20, 0), recorder=recorder)


def test_a_check_that_calls_the_reference_wrong_too_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = run_of(Subject(DropsOneAdapterOfMany(), ThreadsEngine()), tmp_path)
    result = run.check("WRAP-2", "everything", clause_tests()["MATH-1"].strategy, calls_everything_wrong)
    assert result.verdict is Verdict.ERROR
    assert not result.failures
    assert "the reference is called wrong, too" in result.errors[0]
    assert Store(tmp_path).load() == ([], [])


def test_an_oracle_that_asks_for_bits_nobody_can_give_is_an_error_of_the_harness(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("conformance.judging.assertions.error_bound", lambda case, magnitude: magnitude * 0)
    test = clause_tests()["MATH-10"]
    result = run_of(reference_subject(), tmp_path).check(test.clause, test.name, test.strategy, test.body)
    assert result.verdict is Verdict.ERROR
    assert "plain products of its tensors are called wrong, too" in result.errors[0]


def test_a_planted_bug_is_still_a_failure(tmp_path: Path) -> None:
    test = clause_tests()["MATH-1"]
    with BY_NAME["scaling-applied-twice"].patch():
        result = run_of(reference_subject(), tmp_path).check(test.clause, test.name, just(ROUNDED), test.body)
    assert result.verdict is Verdict.FAIL


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BFLOAT16, Dtype.FLOAT16])
@pytest.mark.parametrize("case", [ROUNDED, ROUNDED.exact()])
def test_plain_products_are_right(case: Case, dtype: Dtype) -> None:
    one = replace(case, dtype=dtype, tokens=(0, -1))
    assert second_opinion.first_difference(one, [twin_of(one)[0]], twin_of(one)[1]) is None
    assert_merged_equivalence(reference_subject(), one, needs_signal=False)
