"""What one process of a run keeps: known cases to run first, and every failure as soon as it is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from conformance.judging.verdicts import Failure, Violation
from conformance.regressions.entries import Entry, StoredFailure, UnreadableEntry
from conformance.regressions.sharing import SharedFindings
from conformance.regressions.store import Store
from conformance.search.bodies import Body
from conformance.search.indifference import cause_of, indifferent_parts
from conformance.search.settling import manner, plainest
from conformance.subjects.subject import Subject
from strategies.cases import Case
from strategies.codec import CaseFormatError, Spec


@dataclass(slots=True)
class Recorder:
    """Keeps the failures of an implementation in a store.

    The first sight of a failure is stored at once, so that an interrupted search loses nothing; the shrunk case takes
    its place. Whoever runs clauses makes one per process and implementation, gives it to each `ClauseRun`, and need
    not call it; by hand it is ``priors`` first, then ``sight`` for what a case raised, then ``settle`` with the same
    clause and body, whose failure is what to report. `Handover` writes the files once every process is done.
    """

    store: Store
    impl: str
    identity: Mapping[str, str]
    shared: SharedFindings | None = None
    _sighted: dict[str, Failure] = field(default_factory=dict)
    _stored: list[Entry] = field(init=False)

    def __post_init__(self) -> None:
        # As it was before the run: what this run's other workers add must not change what is found here.
        self._stored = self.store.load()[0]

    def priors(self, clause: str, test: str) -> list[Spec]:
        """The stored and shared cases that broke ``clause`` in function ``test`` on this implementation."""
        found = self.shared.specs(clause, test) if self.shared else []
        for entry in self._stored:
            keys = [(failure.clause, failure.impl, failure.test) for failure in entry.failures]
            if (clause, self.impl, test) in keys:
                try:
                    found.append(entry.spec())
                except CaseFormatError:
                    continue
        return list(dict.fromkeys(found))

    def sight(self, body: Body, clause: str, found: Violation) -> None:
        """Stores the first failure of its kind, as it was drawn."""
        self._sighted[clause] = Failure.of(clause, found)
        self._add(self._sighted[clause], body)

    def settle(self, subject: Subject, body: Body, clause: str, found: Violation) -> Failure:
        """Shrinks to the end, finds out what does not matter, and stores the result in place of the first sight."""
        failure = self._explained(subject, body, clause, found)
        self._add(failure, body)
        first = self._sighted.pop(clause, None)
        if first is not None and first.case != failure.case:
            self._discard(first, body)
        return failure

    def _explained(self, subject: Subject, body: Body, clause: str, found: Violation) -> Failure:
        smallest, still = plainest(subject, clause, body, found)
        failure = Failure.of(clause, smallest)
        if not isinstance(smallest.case, Case):
            failure.cause = manner(smallest)
            return failure
        failure.indifferent = list(indifferent_parts(smallest.case, still))
        failure.cause = cause_of(smallest, smallest.case, tuple(failure.indifferent))
        return failure

    def _add(self, failure: Failure, body: Body) -> None:
        stored = StoredFailure(
            failure.clause,
            failure.anomaly,
            failure.message,
            self.impl,
            dict(self.identity),
            tuple(failure.indifferent),
            failure.cause,
            body.__name__,
            seen=failure.seen,
        )
        if self.shared is not None:
            self.shared.save(failure.clause, body.__name__, failure.case)
        try:
            self.store.add(failure.case, failure.shown, stored)
        except UnreadableEntry:
            return  # somebody's edit of this very case: the report says so

    def _discard(self, failure: Failure, body: Body) -> None:
        if self.shared is not None:
            self.shared.discard(failure.clause, body.__name__, failure.case)
        try:
            self.store.discard(failure.case, (failure.clause, failure.anomaly, self.impl))
        except UnreadableEntry:
            return
