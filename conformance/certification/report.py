"""The report: one HTML page that needs nothing else, from Jinja2 with autoescaping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from conformance.certification.changes import Changes
from conformance.certification.environment import class_source
from conformance.certification.outcome import Outcome
from conformance.certification.phrases import described, power, verdict
from conformance.certification.regression import regression_test
from conformance.contract import CONTRACT
from conformance.judging.causes import Cause, causes
from conformance.judging.measuring import Cell, Evidence
from conformance.judging.verdicts import Failure
from conformance.suite.screen import conclusion

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Square:
    """One cell of a heat map: its text, and how bad it is from 0 to 1; None where nothing ran."""

    text: str
    shade: float | None
    title: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Rows of squares by adapter rank, columns by TP size."""

    tp_sizes: tuple[int, ...]
    rows: tuple[tuple[int, tuple[Square, ...]], ...]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """One kind of failure: its smallest case, and the test that keeps it from coming back."""

    failure: Failure
    clauses: tuple[str, ...]
    test: str


def write_report(
    outcomes: Sequence[Outcome],
    document: Mapping[str, Any],
    file: Path,
    *,
    changes: Changes | None = None,
    files: Path | None = None,
) -> None:
    """Writes the page; see `page`."""
    file.write_text(page(outcomes, document, changes=changes, files=files), encoding="utf-8")


def page(
    outcomes: Sequence[Outcome],
    document: Mapping[str, Any],
    *,
    changes: Changes | None = None,
    files: Path | None = None,
) -> str:
    """The page's HTML; ``document`` is the certificate of the same run.

    Counterexamples come with the test files in ``files``, where the run wrote them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    subjects = [_subject(outcome, files) for outcome in outcomes]
    return environment.get_template("report.html.j2").render(
        subjects=subjects, document=document, contract=CONTRACT, changes=changes
    )


def _subject(outcome: Outcome, files: Path | None) -> dict[str, Any]:
    if outcome.unfit is not None:
        return {"outcome": outcome, "described": outcome.path, "verdict": outcome.conclusion.value}
    found = causes(outcome.failures)
    numbers = {id(failure): number for number, cause in enumerate(found, 1) for failure in cause.failures}
    return {
        "outcome": outcome,
        "described": described(outcome),
        "number_of": lambda failure: numbers[id(failure)],
        "verdict": conclusion(outcome.results) if outcome.drawn else verdict(outcome),
        "power": power(outcome.evidence),
        "verdicts": verdict_map(outcome.evidence),
        "errors": error_map(outcome.evidence),
        "about": {clause: one for clause, one in outcome.results.items() if outcome.concerned(clause)},
        "others": [clause for clause in outcome.results if not outcome.concerned(clause)],
        "counterexamples": [_counterexample(cause, outcome, files) for cause in found],
        "source": "" if outcome.model or outcome.drawn else class_source(outcome.path),
    }


def _counterexample(cause: Cause, outcome: Outcome, files: Path | None) -> Counterexample:
    written = [files / name for name in cause.smallest.files[:1]] if files else []
    if written and written[0].is_file():
        return Counterexample(cause.smallest, cause.clauses, written[0].read_text(encoding="utf-8"))
    return Counterexample(cause.smallest, cause.clauses, regression_test(cause.smallest, outcome))


def verdict_map(evidence: Evidence) -> HeatMap:
    """How many of the cases of each TP size and rank passed."""

    def square(cell: Cell | None, where: str) -> Square:
        if cell is None:
            return Square("·", None, f"{where}: no case")
        total = cell.passed + cell.failed
        mark = "✗" if cell.failed else "✓"
        return Square(
            f"{mark} {cell.passed}/{total}", cell.failed / total, f"{where}: {cell.passed} of {total} passed"
        )

    return _map(evidence, square)


def error_map(evidence: Evidence) -> HeatMap:
    """The largest error over its bound, of each TP size and rank; above 1 is a failure."""

    def square(cell: Cell | None, where: str) -> Square:
        if cell is None:
            return Square("·", None, f"{where}: no case")
        text = "✗ ∞" if math.isinf(cell.worst) else f"{'✗ ' if cell.worst > 1 else ''}{cell.worst:.2g}"
        return Square(text, min(cell.worst, 2.0) / 2, f"{where}: largest error {cell.worst:.3g} of its bound")

    return _map(evidence, square)


def _map(evidence: Evidence, square: Any) -> HeatMap:
    tp_sizes = tuple(sorted({tp_size for tp_size, _ in evidence.cells}))
    ranks = sorted({rank for _, rank in evidence.cells})
    return HeatMap(
        tp_sizes,
        tuple(
            (rank, tuple(square(evidence.cells.get((tp, rank)), f"TP {tp}, rank ≤ {rank}") for tp in tp_sizes))
            for rank in ranks
        ),
    )
