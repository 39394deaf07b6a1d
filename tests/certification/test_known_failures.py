"""A baseline lets a run pass with failures that are known, linked and not yet due, and with no others."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from conformance.certification.baseline import Baseline, BaselineError
from conformance.certification.outcome import Conclusion, Outcome
from conformance.contract import CONTRACT
from conformance.judging.verdicts import ClauseResult, Failure

TODAY = datetime.date(2026, 6, 1)
SUBJECT = "package.module:Linear"


def outcome(*failed: tuple[str, str]) -> Outcome:
    """A class that passes every clause but fails these, by clause and anomaly."""
    results = {clause: ClauseResult(clause) for clause in CONTRACT}
    for clause, result in results.items():
        result.counts["pass"] = 1
        result.failures = [Failure(one, anomaly, "seen", {}, "Case()") for one, anomaly in failed if one == clause]
    return Outcome(SUBJECT, results=results)


def written(file: Path, **changes: str) -> Path:
    """A baseline of one known failure."""
    entry = {"class": SUBJECT, "clause": "MATH-1", "anomaly": "delta-dropped", "link": "https://example.org/1"}
    entry |= {"expires": "2026-07-01", **changes}
    file.write_text(json.dumps({"format_version": 1, "known_failures": [entry]}), encoding="utf-8")
    return file


def judged(file: Path, found: Outcome) -> tuple[Conclusion, list[str]]:
    """The conclusion under the baseline, and its complaints."""
    baseline = Baseline.read(file, TODAY)
    found.known = baseline.known(found.path)
    return found.conclusion, baseline.complaints([found])


def test_a_known_failure_is_let_through_and_is_no_certificate(tmp_path: Path) -> None:
    found = judged(written(tmp_path / "known.json"), outcome(("MATH-1", "delta-dropped")))
    assert found == (Conclusion.KNOWN_FAILURES, [])


def test_an_entry_may_speak_of_every_class(tmp_path: Path) -> None:
    found = judged(written(tmp_path / "known.json", **{"class": "*"}), outcome(("MATH-1", "delta-dropped")))
    assert found == (Conclusion.KNOWN_FAILURES, [])


def of_roles(*roles: str) -> Outcome:
    """A model of which modules of these roles vanish."""
    found = outcome()
    place = [{"kind": "Lost", "keys": [], "place": {"role": role}} for role in roles]
    found.results["MODEL-1"].failures = [
        Failure("MODEL-1", "key-vanished", "seen", {}, "ModelCase()", seen=seen) for seen in place
    ]
    return found


def test_causes_of_one_clause_and_anomaly_are_told_apart_by_role(tmp_path: Path) -> None:
    vanished = {"clause": "MODEL-1", "anomaly": "key-vanished"}
    file = written(tmp_path / "known.json", **vanished, role="model.visual.*")
    baseline = Baseline.read(file, TODAY)
    for roles, excused in ((["model.visual.blocks"], True), (["mlp.gate"], False)):
        found = of_roles(*roles)
        known = baseline.known(SUBJECT, found.failures)
        assert bool(known) is excused
        assert bool(baseline.link(SUBJECT, found.failures[0])) is excused
        assert bool(baseline.complaints([found])) is not excused  # that the entry is stale
    both = of_roles("model.visual.blocks", "mlp.gate")
    assert baseline.known(SUBJECT, both.failures) == set()
    assert [baseline.link(SUBJECT, one) for one in both.failures] == ["https://example.org/1", ""]


def test_an_entry_that_says_what_was_seen_excuses_no_other_exception(tmp_path: Path) -> None:
    raised = {"clause": "MODEL-7", "anomaly": "raised"}
    file = written(
        tmp_path / "known.json", **raised, **{"class": "*"}, role="shared out*", seen="StopIteration: * in load"
    )
    baseline = Baseline.read(file, TODAY)
    for kind, place, excused in (
        ("StopIteration", "load", True),
        ("StopIteration", "read", False),
        ("KeyError", "load", False),
    ):
        found = outcome(("MODEL-7", "raised"))
        (failure,) = found.failures
        said = {"kind": "Raised", "type": kind, "text": "of ranks", "site": f"engine.py:7 in {place}"}
        failure.seen = {**said, "place": {"role": "shared out to ranks"}}
        assert bool(baseline.known(SUBJECT, found.failures)) is excused
        assert bool(baseline.link(SUBJECT, failure)) is excused
    baseline.write()
    assert Baseline.read(file, TODAY) == baseline


@pytest.mark.parametrize("file", sorted(Path("baselines").glob("*.json")), ids=lambda file: file.stem)
def test_what_a_list_excuses_of_every_class_is_one_exception_and_not_any(file: Path) -> None:
    wide = [one for one in Baseline.read(file, TODAY).entries if one.subject == "*" and "seen" not in one.aspects]
    assert [one for one in wide if one.anomaly in ("raised", "unexplained")] == []


def test_a_list_that_is_written_anew_keeps_the_link_of_each_role(tmp_path: Path) -> None:
    vanished = {"clause": "MODEL-1", "anomaly": "key-vanished"}
    file = written(tmp_path / "known.json", **vanished, role="mlp.gate")
    entries = Baseline.of([of_roles("mlp.gate", "layers.*.conv")], file, TODAY).entries
    assert {(one.role, one.link) for one in entries} == {
        ("mlp.gate", "https://example.org/1"),
        ("layers.[*].conv", ""),
    }


@pytest.mark.parametrize("other", [("MATH-1", "scale-twice"), ("MATH-2", "delta-dropped")])
def test_another_clause_or_anomaly_fails_the_run(tmp_path: Path, other: tuple[str, str]) -> None:
    conclusion, _ = judged(written(tmp_path / "known.json"), outcome(("MATH-1", "delta-dropped"), other))
    assert conclusion is Conclusion.NOT_CERTIFIED


def test_a_stale_entry_fails_the_run(tmp_path: Path) -> None:
    conclusion, (complaint,) = judged(written(tmp_path / "known.json"), outcome())
    assert conclusion is Conclusion.CERTIFIED
    assert "is stale" in complaint


def test_an_expired_entry_fails_the_run(tmp_path: Path) -> None:
    file = written(tmp_path / "known.json", expires="2026-05-31")
    conclusion, complaints = judged(file, outcome(("MATH-1", "delta-dropped")))
    assert conclusion is Conclusion.NOT_CERTIFIED
    assert "expired on 2026-05-31" in complaints[0]


def test_an_entry_without_a_link_fails_the_run(tmp_path: Path) -> None:
    _, (complaint,) = judged(written(tmp_path / "known.json", link=""), outcome(("MATH-1", "delta-dropped")))
    assert "has no link" in complaint


def test_update_writes_what_failed_and_keeps_links_and_days(tmp_path: Path) -> None:
    file = written(tmp_path / "known.json")
    Baseline.of([outcome(("MATH-1", "delta-dropped"), ("MATH-2", "wrong-slot"))], file, TODAY).write()
    kept, added = Baseline.read(file, TODAY).entries
    assert (kept.link, kept.expires) == ("https://example.org/1", datetime.date(2026, 7, 1))
    assert (added.clause, added.anomaly, added.link) == ("MATH-2", "wrong-slot", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "format_version 1"),
        ('{"format_version": 1, "known_failures": [{"clause": "MATH-1"}]}', "entry 1: give anomaly, class"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "known.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError, match=said):
        Baseline.read(file, TODAY)


def test_a_day_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="give a day such as"):
        Baseline.read(written(tmp_path / "known.json", expires="soon"), TODAY)


@pytest.mark.parametrize(("classes", "role", "complaints"), [(1, "*", 0), (2, "*", 1), (2, "*experts*", 0)])
def test_an_entry_of_every_class_is_stale_of_several_unless_it_is_about_a_role(
    tmp_path: Path, classes: int, role: str, complaints: int
) -> None:
    baseline = Baseline.read(written(tmp_path / "known.json", **{"class": "*", "role": role}), TODAY)
    assert len(baseline.complaints([outcome()] * classes)) == complaints  # nobody fails of what it has nothing of
