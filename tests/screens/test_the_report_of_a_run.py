"""``--report`` of a run on drawn classes: verdict, heat maps, causes, and what changed.

A run that writes one: tests/regressions_writer/test_a_run_hands_over.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from conformance.certification.changes import Changes, ResultsError, read_results
from conformance.certification.outcome import DRAWN, Outcome
from conformance.certification.report import page
from conformance.judging.measuring import Evidence, Measure
from conformance.judging.verdicts import ClauseResult
from strategies.cases import Case
from tests.suite import run_suite

DOCUMENT = {
    "verdict": "not conformant",
    "contract_version": 1,
    "run": {"seed": 0, "profile": "default", "cases_per_clause": 250, "engine": "threads"},
    "environment": {"torch": "2"},
    "sha256": "",
}


@pytest.fixture(scope="module")
def of_vllm() -> dict[str, ClauseResult]:
    stored = json.loads(Path(__file__).with_name("vllm-0.33.0.json").read_text(encoding="utf-8"))
    return {clause: ClauseResult.from_dict(one) for clause, one in stored.items()}


@pytest.fixture(scope="module")
def text(of_vllm: dict[str, ClauseResult]) -> str:
    return page([Outcome(DRAWN, impl="vllm", results=of_vllm, drawn=True)], DOCUMENT)


def test_all_of_vllm_is_one_page_under_a_megabyte_that_needs_nothing_else(text: str) -> None:
    assert len(text.encode()) < 1_000_000
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", text)
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text))


def test_each_cause_has_a_place_of_its_own(text: str) -> None:
    places = re.findall(r'id="(fail-[^"]+)"', text)
    assert len(places) == len(set(places)) > 30


def test_whatever_scrolls_can_be_reached_by_keyboard(text: str) -> None:
    for tag in re.findall(r"<(?:pre|div class=\"scroll\")[^>]*>", text):
        assert 'tabindex="0"' in tag


def test_what_is_no_results_file_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "not.json").write_text("[]")
    for name, why in (("gone.json", "cannot be read"), ("not.json", "holds no results")):
        with pytest.raises(ResultsError, match=why):
            read_results(tmp_path / name)
    result = run_suite("--compare", str(tmp_path / "gone.json"), "--report", str(tmp_path / "r.html"), detail="-q")
    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert "--compare" in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_changed_is_said(of_vllm: dict[str, ClauseResult]) -> None:
    of_vllm = {clause: of_vllm[clause] for clause in ("WRAP-1", "MATH-1")}
    changes = Changes.between(Path("before.json"), of_vllm, of_vllm)
    assert changes == Changes(Path("before.json"), (), (), ())
    assert "as it was" in page([Outcome(DRAWN, results=of_vllm, drawn=True)], DOCUMENT, changes=changes)


def test_a_case_that_passes_has_no_error_above_its_bound() -> None:
    """It may have asked whether an output is a wrong one, which is then far away."""
    evidence, measure = Evidence(), Measure()
    measure._ratio(0.25)
    measure._ratio(7.0)
    evidence.record(Case(), measure, passed=True)
    assert [cell.worst for cell in evidence.cells.values()] == [0.25]
    evidence.record(Case(), measure, passed=False)
    assert [cell.worst for cell in evidence.cells.values()] == [7.0]
