"""Known failures of an implementation on drawn classes: a run fails of what is new, and of entries that are stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.certification.baseline import Baseline, BaselineError
from conformance.certification.outcome import DRAWN, Outcome
from conformance.suite.options import Options
from conformance.suite.reporting import ConformanceReport
from conformance.suite.screen import Known


class KnownFailures:
    """Holds a run's failures against ``--baseline``; the exit code is 0 if they are the known ones."""

    def __init__(self, report: ConformanceReport, options: Options) -> None:
        self._report, self._options = report, options

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        file = self._options.baseline or self._of_the_release()
        if file is None or session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        outcome = Outcome(DRAWN, results=self._report.totals())
        if self._options.update_baseline:
            Baseline.of([outcome], file).write()
            self._report.known = Known(file, complaints=(f"known failures written to {file}; give each a link",))
            return
        try:
            baseline = Baseline.read(file)
        except BaselineError as error:
            self._report.known = Known(file, complaints=(str(error),))
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        links = baseline.links(DRAWN)
        if self._options.baseline is None:
            self._report.known = Known(file, links)
            return
        known = baseline.known(DRAWN)
        new = sorted({one.key for one in outcome.failures} - known)
        complaints = [f"not a known failure: {clause} {anomaly}" for clause, anomaly in new]
        complaints += baseline.complaints([outcome])
        self._report.known = Known(file, links, frozenset(known), tuple(complaints))
        errors = any(result.errors for result in outcome.results.values())
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if complaints or errors else pytest.ExitCode.OK

    def _of_the_release(self) -> Path | None:
        """The list that the project keeps of a release of vLLM, which names findings and excuses nothing."""
        file = Path("baselines") / f"{self._report.identity['implementation'].replace(' ', '-')}.json"
        return file if file.is_file() else None
