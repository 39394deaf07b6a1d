"""Replay: stored failures, or test files, run again; one line for each failure."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from conformance.certification.clause_tests import UnknownClause, bodies_of
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.discovery import implementation_named
from conformance.judging.verdicts import Violation
from conformance.regressions.entries import Entry, StoredFailure, UnreadableEntry, VoidEntry, read_entry
from conformance.regressions.proof import run_file
from conformance.regressions.store import FOLDER, Store
from conformance.search.bodies import violation_of
from conformance.subjects.constructors import recipe_of
from conformance.subjects.outcomes import HarnessError, NotApplicable
from conformance.subjects.subject import Subject
from strategies.cases import Case
from strategies.codec import CaseFormatError

CASE_LINE = re.compile(r"^Case ([0-9a-f]{12})\b", re.MULTILINE)


class Status(enum.Enum):
    """What a failure came to."""

    FIXED = "FIXED"
    STILL_FAILS = "STILL FAILS"
    VOID = "VOID"  # the case contradicts itself, so nobody failed it
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One failure, run again."""

    status: Status
    what: str
    detail: str = ""
    clause: str = ""
    anomaly: str = ""
    now: str = ""  # the anomaly that is seen now, where it still fails

    def __str__(self) -> str:
        other = f"now {self.now}: " if self.now != self.anomaly else ""
        told = f"  {other}{self.detail}" if self.detail else ""
        return f"{self.status.value:<12}{self.what}{told}"

    def to_dict(self) -> dict[str, str]:
        """JSON-ready data."""
        return asdict(self) | {"status": self.status.value}


class NothingToReplay(ValueError):
    """A FILE, ID or DIR that leads to no stored failure; the message says what would."""


Subjects = Callable[[str], Subject]


def replay(what: str | None, store: Store, subjects: Subjects, impl: str | None) -> Iterator[Replayed]:
    """Runs again what ``what`` names: an id (or its beginning), a file, a directory; None for the whole store.

    ``subjects`` gives the subject for an ``--impl``; ``impl`` replaces the one that each failure was found with.

    Raises:
        NothingToReplay: it names nothing.
    """
    for found in _found(what, store):
        if isinstance(found, Entry):
            yield from replay_entry(found, subjects, impl)
        elif isinstance(found, UnreadableEntry):
            yield Replayed(Status.VOID if isinstance(found, VoidEntry) else Status.ERROR, str(found))
        else:
            yield replay_file(found)


def replay_entry(entry: Entry, subjects: Subjects, impl: str | None) -> Iterator[Replayed]:
    """Runs an entry again, each of its failures on the implementation it was found with, or on ``impl``."""
    for failure in entry.failures:
        on = impl or failure.impl
        what = f"{entry.id}  {failure.clause} {failure.anomaly}  on {on}"
        of = partial(Replayed, what=what, clause=failure.clause, anomaly=failure.anomaly)
        try:
            found = _outcome(entry, failure, subjects(on))
        except (UnknownClause, HarnessError, NotApplicable, CaseFormatError) as error:
            yield of(Status.ERROR, detail=str(error), now=failure.anomaly)
            continue
        if found is None:
            yield of(Status.FIXED)
        else:
            yield of(Status.STILL_FAILS, detail=found.message, now=found.anomaly)


def replay_file(path: Path) -> Replayed:
    """Runs a test file that belongs to no entry, in a process of its own."""
    run = run_file(path)
    status = {0: Status.FIXED, 1: Status.STILL_FAILS}.get(run.code, Status.ERROR)
    return Replayed(status, str(path), "" if status is Status.FIXED else run.said)


def _outcome(entry: Entry, failure: StoredFailure, subject: Subject) -> Violation | None:
    every = bodies_of(failure.clause)
    bodies = [body for body in every if body.__name__ == failure.test] or every
    case = entry.spec()
    if isinstance(case, Case) and case.subclass.target:
        recipe_of(case.subclass)  # a class that is not here cannot fail, nor be fixed
    for body in bodies:
        found = violation_of(subject, body, case)
        if found is not None:
            return found
    return None


def _found(what: str | None, store: Store) -> Iterable[Entry | UnreadableEntry | Path]:
    if what is None:
        return _all_of(store, f"{store.directory} holds no stored failure; run pytest conformance/ first")
    path = Path(what)
    if path.is_dir():
        inner = path.parent if path.name == FOLDER else path
        return _all_of(Store(inner), f"{path} holds no stored failure ({FOLDER}/*.json) and no test_*.py")
    if path.is_file():
        return _of_file(path, store)
    entries, problems = store.load()
    chosen = [entry for entry in entries if entry.id.startswith(what)]
    if not chosen:
        known = ", ".join(entry.id for entry in entries[:8]) or "none"
        raise NothingToReplay(
            f"{what!r} is neither a file, nor a directory, nor the beginning of an id in {store.directory}; "
            f"ids there: {known}" + (f" ({len(problems)} files cannot be read)" if problems else "")
        )
    return chosen


def _all_of(store: Store, otherwise: str) -> list[Entry | UnreadableEntry | Path]:
    entries, problems = store.load()
    known = {entry.id for entry in entries}
    alone = [path for path in sorted(store.directory.glob("test_*.py")) if _id_in(path) not in known]
    if not (entries or problems or alone):
        raise NothingToReplay(otherwise)
    return [*entries, *problems, *alone]


def _of_file(path: Path, store: Store) -> list[Entry | UnreadableEntry | Path]:
    if path.suffix == ".json":
        try:
            return [read_entry(path)]
        except UnreadableEntry as problem:
            return [problem]
    if path.suffix != ".py":
        raise NothingToReplay(f"{path} is neither a stored failure (.json) nor a test file (.py)")
    # The case beside the file, or in the store; else the file itself is all there is.
    for place in (Store(path.parent), store):
        chosen = [entry for entry in place.load()[0] if entry.id == _id_in(path)]
        if chosen:
            return [*chosen]
    return [path]


def _id_in(path: Path) -> str | None:
    found = CASE_LINE.search(path.read_text(encoding="utf-8"))
    return found.group(1) if found else None


def subject_of(impl: str) -> Subject:
    """The implementation called ``impl`` on the threads engine.

    Raises:
        pytest.UsageError: see `implementation_named`.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return Subject(implementation_named(impl), ThreadsEngine())
