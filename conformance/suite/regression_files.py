"""The end of a run: the store's failures become test files, on the process that prints, after all shards are in."""

from __future__ import annotations

import pytest

from conformance.regressions.entries import Entry, StoredFailure
from conformance.regressions.store import Store
from conformance.suite.reporting import ConformanceReport
from conformance.test_files.handover import Handover


class RegressionWriter:
    """Writes one file for each root cause of each clause, and one more for plain vLLM."""

    def __init__(self, report: ConformanceReport, store: Store, impl: str, *, prove: bool = True) -> None:
        self._report, self._store, self._impl, self._prove = report, store, impl, prove

    def pytest_report_header(self) -> list[str]:
        entries, _ = self._store.load()
        known = sum(failure.impl == self._impl for entry in entries for failure in entry.failures)
        return [f"conformance: {known} known failures in {self._store.directory} run first"] if known else []

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        failures, problems = self._failures(), self._store.load()[1]
        if not failures and not problems:
            return
        terminalreporter.section("regression tests")
        for problem in problems:
            terminalreporter.write_line(f"left alone: {problem}")
        if not failures:
            return
        # Whoever interrupts does not want to wait; the next run proves what this one left.
        prove = self._prove and exitstatus != pytest.ExitCode.INTERRUPTED
        for handed in Handover(self._store).failures(failures, prove=prove):
            terminalreporter.write_line(str(handed))
        terminalreporter.write_line(f"replay them: lora-compat replay {self._store.directory}")

    def _failures(self) -> list[tuple[Entry, StoredFailure]]:
        """The run's failures as they are stored, one for each root cause."""
        entries = {entry.id: entry for entry in self._store.load()[0]}
        found = []
        for result in self._report.totals().values():
            for failure in result.failures:
                entry = entries.get(Entry(failure.case, failure.shown, ()).id)
                key = (failure.clause, failure.anomaly, self._impl)
                found += [(entry, stored) for stored in entry.failures if stored.key == key] if entry else []
        return found
