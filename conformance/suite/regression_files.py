"""The end of a run: the store's failures become test files, on the process that prints, after all shards are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from conformance.judging.verdicts import Failure
from conformance.regressions.entries import Entry, StoredFailure
from conformance.regressions.store import Store
from conformance.suite.reporting import ConformanceReport
from conformance.test_files.handover import Handed, Handover, State
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
        # Whoever interrupts does not want to wait; the next run proves what this one left.
        prove = self._prove and exitstatus != pytest.ExitCode.INTERRUPTED
        failures = [failure for result in self._report.totals().values() for failure in result.failures]
        self._report.handed = hand_over(failures, self._store, self._impl, prove=prove)


def hand_over(failures: Sequence[Failure], store: Store, impl: str, *, prove: bool) -> list[Handed]:
    """Writes the files of those failures that are in the store, proves them, and puts names into `Failure.files`."""
    found = list(_stored(failures, store, impl)) if failures else []
    handed = list(Handover(store).failures([(entry, kept) for _, entry, kept in found], prove=prove)) if found else []
    written = {one.path.name for one in handed if one.state is not State.NOT_WRITTEN}
    for failure, entry, kept in found:
        dialects = sorted(dialects_of(kept), key=lambda dialect: dialect.impl != impl)  # its own file first
        names = (file_name(entry, kept, dialect) for dialect in dialects)
        failure.files = [name for name in names if name in written]
    return handed


def _stored(failures: Sequence[Failure], store: Store, impl: str) -> Iterator[tuple[Failure, Entry, StoredFailure]]:
    """Failures with how they are stored, one for each root cause."""
    entries = {entry.id: entry for entry in store.load()[0]}
    for failure in failures:
        entry = entries.get(Entry(failure.case, failure.shown, ()).id)
        key = (failure.clause, failure.anomaly, impl)
        yield from ((failure, entry, kept) for kept in entry.failures if kept.key == key) if entry else ()
