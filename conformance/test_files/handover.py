"""From stored failures to proved test files: what a run hands over at its end."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from conformance.regressions.entries import Entry, StoredFailure
from conformance.regressions.proof import replayed, run_file, same_reason
from conformance.regressions.store import Store, replace_file
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.scenes import reference
from conformance.test_files.vllm_dialect import Vllm
from conformance.test_files.writer import (
    DIALECTS,
    MOST_LINES,
    MOST_OF_A_MODEL,
    NOT_RUN,
    UNPROVED,
    File,
    file_name,
    proved,
    write_all,
)

WORKERS = 2
BUILT_IN = ("reference", "sglang", "vllm")


class State(enum.StrEnum):
    """What a file is worth."""

    PROVED = "proved"
    NOT_PROVED = "not proved"
    NOT_WRITTEN = "not written"
    LEFT_ALONE = "left alone"


@dataclass(frozen=True, slots=True)
class Handed:
    """One file that was written, kept, or left alone, and what is known of it."""

    path: Path
    what: str
    proof: str

    @property
    def state(self) -> State:
        """What it is worth."""
        if self.what in tuple(State):
            return State(self.what)
        return State.NOT_PROVED if self.proof.startswith(UNPROVED) else State.PROVED

    def __str__(self) -> str:
        return f"{self.what} {self.path}: {self.proof}"


@dataclass(frozen=True, slots=True)
class Handover:
    """Writes the files of failures, proves them, and keeps what was proved in the store."""

    store: Store

    def failures(self, given: Sequence[tuple[Entry, StoredFailure]], *, prove: bool = True) -> Iterator[Handed]:
        """Hands over the files of each failure, a few at a time."""
        with ThreadPoolExecutor(WORKERS) as pool:
            jobs = zip(given, write_all(given), strict=True)
            for handed in pool.map(lambda job: list(self._failure(job[0], job[1], prove)), jobs):
                yield from handed

    def _failure(self, found: tuple[Entry, StoredFailure], files: Sequence[File], prove: bool) -> Iterator[Handed]:
        entry, failure = found
        told = ""
        for dialect, file in zip(DIALECTS, files, strict=True):
            path = self.store.directory / file_name(entry, failure, dialect)
            known = failure.files.get(path.name, {})
            there = path.read_text(encoding="utf-8") if path.exists() else None
            if there is not None and _digest(there) not in (known.get("sha256"), known.get("before")):
                yield Handed(path, State.LEFT_ALONE, "it was edited by hand, or is not of this run")
                continue
            if isinstance(file, CannotWrite):
                yield Handed(path, State.NOT_WRITTEN, str(file))
                continue
            if known.get("proof", NOT_RUN) != NOT_RUN and there == proved(file, entry, failure, known["proof"]):
                yield Handed(path, "kept", known["proof"])
                continue
            failure = self._put(entry, failure, path, file, NOT_RUN)
            proof = told = self._proof(entry, failure, dialect, path, told) if prove else NOT_RUN
            failure = self._put(entry, failure, path, proved(file, entry, failure, proof), proof)
            most = MOST_OF_A_MODEL if _of_a_model(entry) else MOST_LINES
            yield Handed(path, "wrote", f"{proof}{_length(file, most)}")

    def _put(self, entry: Entry, failure: StoredFailure, path: Path, text: str, proof: str) -> StoredFailure:
        """Writes a file that the store knows already: whoever is interrupted in between has edited nothing."""
        before = _digest(path.read_text(encoding="utf-8")) if path.exists() else ""
        facts = {"sha256": _digest(text), "before": before, "proof": proof}
        failure = replace(failure, files={**failure.files, path.name: facts})
        self.store.add(entry.case, entry.shown, failure)
        replace_file(path, text)
        return failure

    def _proof(self, entry: Entry, failure: StoredFailure, dialect: Dialect, path: Path, other: str) -> str:
        """One sentence or two: where the file was seen to fail, and where it, or the same case, passes."""
        found_on = failure.identity.get("implementation", "") if failure.impl in BUILT_IN else failure.impl
        if isinstance(dialect, Vllm) and failure.impl != "vllm":
            return f"{UNPROVED}, the failure was found on {found_on} and this file has not been run."
        run = run_file(path)
        if failure.impl == dialect.impl:
            if same_reason(run, failure):
                also = "" if _of_a_model(entry) else f"; {_passes(other)}"  # a model's has no second library
                return f"fails on {found_on} in a fresh process, for this reason{also}."
            seen = "passes" if run.code == 0 else f"fails for another reason ({run.said})"
            return f"{UNPROVED}, {seen} on {found_on} in a fresh process."
        good = reference().implementation.identity()["implementation"]
        if run.code != 0:
            return f"{UNPROVED}, it fails on {good} too: {run.said}"
        return f"passes on {good} in a fresh process; {self._fails_elsewhere(entry, failure, found_on)}."

    def _fails_elsewhere(self, entry: Entry, failure: StoredFailure, found_on: str) -> str:
        if failure.impl == "vllm":
            return f"the file for plain vLLM has what is known of {found_on}"
        same = {"clause": failure.clause, "anomaly": failure.anomaly, "status": "STILL FAILS", "now": failure.anomaly}
        if any(same.items() <= one.items() for one in replayed(self.store.folder / f"{entry.id}.json")):
            return f"the case fails on {found_on} when it is replayed in one"
        return f"{UNPROVED} that the case fails on {found_on} when it is replayed in one"


def _length(text: str, most: int = MOST_LINES) -> str:
    """What is said of a file that is longer than a reviewer reads."""
    lines = text.count("\n")
    return "" if lines <= most else f" It has {lines} lines: its case is as small as shrinking made it."


def _of_a_model(entry: Entry) -> bool:
    return str(entry.case["kind"]) == "ModelCase"


def _passes(other: str) -> str:
    return (
        other.partition(";")[0].replace("passes on", "the same case passes on")
        if "passes on" in other
        else (f"{UNPROVED} that the same case passes anywhere")
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
