"""The page of what a run exercised counts each TP size by itself, and is of the clauses of today's contract."""

from __future__ import annotations

import re

import pytest

from benchmarks.exercised import page
from conformance.judging.measuring import Evidence, Measure
from conformance.judging.verdicts import ClauseResult
from strategies.cases import Case
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.programs import Program
from strategies.ranks import RankQuestion
from strategies.target_questions import TargetQuestion
from strategies.trees import ModelSpec
from strategies.vocabulary import VocabularyCase


@pytest.mark.parametrize(
    "case",
    [
        Case(tp_size=2),
        ExpertsCase(tp_size=2),
        VocabularyCase(tp_size=2),
        Program(model=ModelSpec(tp_size=2)),
        TargetQuestion(ModelSpec(tp_size=2)),
    ],
    ids=lambda case: type(case).__name__,
)
def test_a_case_of_any_kind_is_counted_at_its_size(case: Spec) -> None:
    evidence = Evidence()
    evidence.record(case, Measure(), passed=True)
    evidence.record(case, Measure(), passed=False)
    evidence.add(Evidence.from_dict(evidence.to_dict()))
    assert evidence.ranks == {2: 4}


def test_a_question_of_a_rank_alone_has_no_size() -> None:
    evidence = Evidence()
    evidence.record(RankQuestion(), Measure(), passed=True)
    assert not evidence.ranks


def test_a_clause_that_no_case_showed_anything_of_is_not_exercised() -> None:
    shown = ClauseResult("MATH-1")
    shown.evidence.record(Case(), Measure(), passed=True)
    shown.counts["pass"] += 1
    declared = ClauseResult("WRAP-8")
    declared.counts["not applicable"] += 1
    declared.reasons["not applicable: it has none"] += 1
    document = {
        "run": {"profile": "default", "cases_per_clause": 1, "seed": 0},
        "identity": {"implementation": "one"},
        "clauses": {one.clause: one.to_dict() for one in (shown, declared)},
    }
    text = page(document)
    assert "| MATH-1 | pass | 1 | 0 |  |" in text
    assert "| WRAP-8 | not applicable | – | – | it has none |" in text
    assert "| COMM-1 | not exercised | – | 0 |  |" in text
    assert re.search(r"^\| of all \| 1 of 37 \(3 %\) \| 0 of 37 \(0 %\) \|$", text, re.MULTILINE)
