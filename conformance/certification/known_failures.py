"""Known failures of an implementation on drawn classes: a run fails of what is new, and of entries that are stale."""

from __future__ import annotations

import pytest

from conformance.certification.baseline import Baseline, BaselineError
from conformance.certification.outcome import Outcome
from conformance.suite.options import Options
from conformance.suite.reporting import ConformanceReport

DRAWN = "drawn classes"


class KnownFailures:
    """Holds a run's failures against ``--baseline``; the exit code is 0 if they are the known ones."""

    def __init__(self, report: ConformanceReport, options: Options) -> None:
        self._report, self._options = report, options
        self._lines: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        file = self._options.baseline
        if file is None or session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        outcome = Outcome(DRAWN, results=self._report.totals())
        if self._options.update_baseline:
            Baseline.of([outcome], file).write()
            self._lines.append(f"known failures written to {file}; give each a link")
            return
        try:
            baseline = Baseline.read(file)
        except BaselineError as error:
            self._lines.append(str(error))
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        known = baseline.known(DRAWN)
        new = sorted({(one.clause, one.anomaly) for one in outcome.failures} - known)
        errors = [clause for clause, result in outcome.results.items() if result.errors]
        self._lines += [f"not a known failure: {clause} {anomaly}" for clause, anomaly in new]
        self._lines += baseline.complaints([outcome])
        red = bool(self._lines or errors)
        self._lines.append(f"{len(known)} known failures in {file}, {len(new)} new ones, {len(errors)} errors")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if red else pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._lines:
            terminalreporter.section("known failures")
            for line in self._lines:
                terminalreporter.write_line(line)
