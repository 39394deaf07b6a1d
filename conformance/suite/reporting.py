"""The header that says what is tested, and the table at the end: one line per clause.

What a shard found rides on its test report, so it survives the death of the worker that ran it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.contract import CONTRACT, CONTRACT_VERSION, Level
from conformance.judging.verdicts import ClauseResult, Verdict, summed
from conformance.subjects.outcomes import NOT_HERE
from conformance.suite.options import Options
from conformance.suite.parts import PLACE, Coverage, Part

RESULT_PROPERTY = "clause_result"
RESULTS_FORMAT = 1
ClauseOf = Callable[[str], str | None]  # the clause of a test, by its node id


class ConformanceReport:
    """Collects every shard's result on the process that prints."""

    def __init__(self, options: Options, identity: Mapping[str, str], clause_of: ClauseOf) -> None:
        self.options = options
        self._clause_of = clause_of
        self.identity = identity
        self.results: list[ClauseResult] = []
        self.coverage = Coverage(options.part or Part())
        self._started = time.perf_counter()
        self._first_case: float | None = None

    def header(self) -> list[str]:
        """Identity of what is tested, and every option."""
        options = self.options
        return [
            "conformance: " + ", ".join(f"{name} {value}" for name, value in self.identity.items()),
            f"conformance: profile {options.profile} ({options.max_examples} cases a clause), "
            f"shards {options.shards}, engine {options.engine}, device {options.device}, seed {options.seed}"
            + (f", part {options.part}" if options.part else ""),
        ]

    def pytest_report_header(self) -> list[str]:
        return self.header()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found, place = (dict(report.user_properties).get(name) for name in (RESULT_PROPERTY, PLACE))
        if report.when == "call" and isinstance(place, list):
            self.coverage.add(place)
        if report.when == "call" and isinstance(found, dict):
            self.results.append(ClauseResult.from_dict(found))
            return
        clause = self._clause_of(report.nodeid) if report.failed else None
        if clause is not None:
            # The test ended without a result: its worker died, or the harness failed around it.
            self.results.append(ClauseResult(clause, errors=[str(report.longrepr).strip().splitlines()[-1]]))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.options.results is not None:
            results = {clause: result.to_dict() for clause, result in self.totals().items()}
            document = {
                "format_version": RESULTS_FORMAT,
                "contract_version": CONTRACT_VERSION,
                "identity": dict(self.identity),
                "run": self.run(),
                "conclusion": conclusion(self.totals()),
                "clauses": results,
            }
            write_json(self.options.results, document)

    def run(self) -> dict[str, Any]:
        """What the run drew and how much of it, as data; ``part`` is None for a whole run."""
        options = self.options
        return {
            "seed": options.seed,
            "profile": options.profile,
            "cases_per_clause": options.max_examples,
            "shards": options.shards,
            "engine": options.engine,
            "device": options.device,
            "part": self.coverage.to_dict() if options.part else None,
        }

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        totals = self.totals()
        if not totals:
            return
        terminalreporter.section("conformance")
        for line in table(totals):
            terminalreporter.write_line(line)
        cases = sum(result.cases for result in totals.values())
        seconds = sum(result.seconds for result in totals.values())
        verdict = f"part {self.options.part}, for lora-compat merge" if self.options.part else conclusion(totals)
        terminalreporter.write_line(
            f"{verdict}: {cases} cases in {seconds:.1f} s of worker time, "
            f"{cases / max(seconds, 1e-9):.0f} cases/s a worker"
        )

    def totals(self) -> dict[str, ClauseResult]:
        """The results by clause, in the order of the contract."""
        totals = summed(self.results)
        return {clause: totals[clause] for clause in CONTRACT if clause in totals}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a document as certificates are written."""
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def table(totals: Mapping[str, ClauseResult]) -> list[str]:
    """One line per clause: level, verdict, cases, of them exercised; under a failure its anomaly and case."""
    lines = [f"{'clause':<10}{'level':<8}{'verdict':<16}{'cases':>7}{'pass':>7}{'vain':>7}{'refused':>9}{'n/a':>6}"]
    for clause, result in totals.items():
        counts = result.counts
        lines.append(
            f"{clause:<10}{CONTRACT[clause].level.value:<8}{result.verdict.value:<16}{result.cases:>7}"
            f"{counts[Verdict.PASS.value]:>7}{counts[Verdict.NOT_EXERCISED.value]:>7}"
            f"{counts[Verdict.REFUSED.value]:>9}{counts[Verdict.NOT_APPLICABLE.value]:>6}"
        )
        for failure in result.failures:
            lines += [f"    {failure.anomaly}: {failure.message}", f"        {failure.shown}"]
        lines += [f"    error: {error}" for error in result.errors]
        here = [(reason, count) for reason, count in sorted(result.reasons.items()) if NOT_HERE in reason]
        said = [(reason, count) for reason, count in result.reasons.most_common() if _worth_saying(reason, result)]
        lines += [f"    {reason} ({count})" for reason, count in here + [one for one in said[:2] if one not in here]]
    return lines


def _worth_saying(reason: str, result: ClauseResult) -> bool:
    """Refusals always; why a case showed nothing only where no case showed anything."""
    return reason.startswith(Verdict.REFUSED.value) or result.verdict not in (
        Verdict.PASS,
        Verdict.FAIL,
        Verdict.ERROR,
    )


def conclusion(totals: Mapping[str, ClauseResult]) -> str:
    """Whether every MUST that ran is green."""
    green = (Verdict.PASS, Verdict.NOT_APPLICABLE)
    red = [
        clause
        for clause, result in totals.items()
        if CONTRACT[clause].level is Level.MUST and result.verdict not in green
    ]
    return f"not conformant ({', '.join(red)})" if red else "conformant"
