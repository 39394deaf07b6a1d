"""A class that is served in part is not called certified: the refused share is named by clause, and the run is red."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.certification.certificate import digest
from conformance.certification.outcome import Conclusion, Outcome
from conformance.certification.phrases import verdict
from conformance.certification.verification import CertificateError, verify
from conformance.contract import CONTRACT
from conformance.judging.verdicts import ClauseResult, Failure, Verdict
from tests.certification.screens import SUBJECTS, lora_compat

PARTIAL = f"{SUBJECTS}.partial:WithBiasAloneLinear"


def outcome(clause: str = "MATH-5", *, passed: int = 1, refused: int = 5) -> Outcome:
    """A class that passes everything, but had cases of ``clause`` refused."""
    results = {one: ClauseResult(one) for one in CONTRACT}
    for result in results.values():
        result.counts["pass"] = 6
    results[clause].counts.update({"pass": passed - 6, "refused": refused})
    return Outcome("package.module:Linear", results=results)


def test_a_must_refused_in_some_cases_passes_and_certifies_in_part() -> None:
    found = outcome()
    assert found.results["MATH-5"].verdict is Verdict.PASS, "as the contract has it"
    assert found.conclusion is Conclusion.IN_PART
    assert verdict(found) == "certified in part: refused MATH-5 5 of 6"


def test_a_must_refused_in_all_cases_does_not_certify() -> None:
    assert outcome(passed=0, refused=6).conclusion is Conclusion.NOT_CERTIFIED


def test_what_should_be_served_may_be_refused() -> None:
    assert outcome("WRAP-2").conclusion is Conclusion.CERTIFIED


def test_known_failures_do_not_cover_a_refusal() -> None:
    found = outcome()
    found.results["MATH-1"].failures = [Failure("MATH-1", "delta-dropped", "seen", {}, "Case()")]
    found.known = {("MATH-1", "delta-dropped")}
    assert found.conclusion is Conclusion.NOT_CERTIFIED


def test_the_run_says_so_and_ends_with_one_and_its_certificate_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "partial.json"
    code, screen = lora_compat("certify", PARTIAL, "--max-examples", "12", "--certificate", str(file))
    assert code == 1, screen
    said = " ".join(screen.split())
    assert f"{PARTIAL}: certified in part: refused WRAP-4 " in said
    assert "in part refused: " in said
    assert "it has no bias" in said
    assert lora_compat("verify", str(file))[0] == 1
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["verdict"] == document["subjects"][0]["verdict"] == "certified in part"
    document["verdict"] = document["subjects"][0]["verdict"] = "certified"
    document["sha256"] = digest(document)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with pytest.raises(CertificateError, match=r"MATH-1 \(refused in \d+ cases\)"):
        verify(file)
