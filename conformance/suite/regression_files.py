"""The end of a run: the store's failures become test files, on the process that prints, after all shards are in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.judging.verdicts import Failure
from conformance.regressions.entries import Entry, StoredFailure
from conformance.regressions.store import Store
from conformance.suite.reporting import ConformanceReport
from conformance.test_files.handover import Handover, State
from conformance.test_files.writer import dialects_of, file_name


class RegressionWriter:
    """Writes one file for each root cause of each clause, and one more for plain vLLM."""

    def __init__(self, report: ConformanceReport, store: Store, impl: str, *, prove: bool = True) -> None:
        self._report, self._store, self._impl, self._prove = report, store, impl, prove
        entries, problems = store.load()
        known = sum(failure.impl == impl for entry in entries for failure in entry.failures)
        report.notes += [f"left alone: {problem}" for problem in problems]
        report.notes += [f"conformance: {known} known failures in {store.directory} run first"] if known else []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        found = list(self._failures())
        if not found:
            return
        # Whoever interrupts does not want to wait; the next run proves what this one left.
        prove = self._prove and exitstatus != pytest.ExitCode.INTERRUPTED
        stored = [(entry, failure) for _, entry, failure in found]
        self._report.handed = list(Handover(self._store).failures(stored, prove=prove))
        written = {one.path.name for one in self._report.handed if one.state is not State.NOT_WRITTEN}
        for failure, entry, kept in found:
            dialects = sorted(dialects_of(kept), key=lambda dialect: dialect.impl != self._impl)  # its own file first
            names = (file_name(entry, kept, dialect) for dialect in dialects)
            failure.files = [name for name in names if name in written]

    def _failures(self) -> Iterator[tuple[Failure, Entry, StoredFailure]]:
        """The run's failures with how they are stored, one for each root cause."""
        entries = {entry.id: entry for entry in self._store.load()[0]}
        for result in self._report.totals().values():
            for failure in result.failures:
                entry = entries.get(Entry(failure.case, failure.shown, ()).id)
                key = (failure.clause, failure.anomaly, self._impl)
                yield from ((failure, entry, kept) for kept in entry.failures if kept.key == key) if entry else ()
