"""``--report`` of a run on drawn classes: the page that certificates have, and what changed since an earlier run."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.certification.changes import Changes, ResultsError, read_results
from conformance.certification.environment import versions
from conformance.certification.outcome import DRAWN, Outcome
from conformance.contract import CONTRACT_VERSION
from conformance.judging.verdicts import ClauseResult
from conformance.subjects.subject import Subject
from conformance.suite.reporting import ConformanceReport
from conformance.suite.screen import conclusion


class RunReport:
    """Writes the page at the end, after the test files that are in it."""

    def __init__(self, report: ConformanceReport, subject: Subject, file: Path, earlier: Path | None) -> None:
        self._report, self._subject, self._file, self._earlier = report, subject, file, earlier
        self._before: dict[str, ClauseResult] = {}
        if earlier is not None:
            try:
                self._before = read_results(earlier)
            except ResultsError as error:
                raise pytest.UsageError(f"--compare {error}") from None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        totals = self._report.totals()
        if not totals:
            return
        # Here, as Jinja2 is nothing that a run without a report waits for.
        from conformance.certification.report import write_report

        known = self._report.known.excused if self._report.known else frozenset()
        outcome = Outcome(DRAWN, impl=self._report.options.impl, results=totals, known=set(known), drawn=True)
        document = {
            "verdict": conclusion(totals),
            "contract_version": CONTRACT_VERSION,
            "run": self._report.run(),
            "environment": versions(self._subject),
            "sha256": "",
        }
        changes = Changes.between(self._earlier, self._before, totals) if self._earlier else None
        write_report([outcome], document, self._file, changes=changes, files=self._report.options.regressions)
        self._report.written.append(f"report: {self._file}")
