"""The store: failures kept by the hash of their case, one file per case, whatever becomes of the test that found them.

A file is replaced whole (written beside, flushed, renamed) under a lock on the directory, so that workers do not lose
each other's failures and whoever is killed leaves either the old file or the new one. What cannot be read, was edited
by hand, or has a newer format version is reported and left alone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance.regressions.entries import (
    Entry,
    StoredFailure,
    UnreadableEntry,
    case_id,
    entry_to_dict,
    read_entry,
)

FOLDER = "cases"


class Store:
    """The entries under ``<directory>/cases``; the directory itself holds the test files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.folder = directory / FOLDER

    def add(self, case: Mapping[str, Any], shown: str, failure: StoredFailure) -> Entry:
        """Keeps ``failure``, beside the others that its case shows.

        Raises:
            UnreadableEntry: the case's file must be left alone.
        """

        def changed(entry: Entry | None) -> Entry:
            return (entry or Entry(case, shown, ())).with_failure(failure)

        found = self._change(case_id(case), changed)
        assert found is not None
        return found

    def discard(self, case: Mapping[str, Any], key: tuple[str, str, str]) -> None:
        """Takes one failure back, and with the last one the entry.

        Raises:
            UnreadableEntry: the case's file must be left alone.
        """

        def changed(entry: Entry | None) -> Entry | None:
            left = tuple(one for one in entry.failures if one.key != key) if entry else ()
            return replace(entry, failures=left) if entry and left else None

        self._change(case_id(case), changed)

    def load(self) -> tuple[list[Entry], list[UnreadableEntry]]:
        """All entries in the order of their ids, and what is wrong with the files that are none."""
        entries, problems = [], []
        for path in sorted(self.folder.glob("*.json")):
            try:
                entries.append(read_entry(path))
            except UnreadableEntry as problem:
                problems.append(problem)
        return entries, problems

    def _change(self, name: str, change: Callable[[Entry | None], Entry | None]) -> Entry | None:
        path = self.folder / f"{name}.json"
        with self._locked():
            entry = change(read_entry(path) if path.exists() else None)
            if entry is None:
                path.unlink(missing_ok=True)
            else:
                replace_file(path, json.dumps(entry_to_dict(entry), indent=1) + "\n")
        return entry

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        # The system lets go of the lock when its holder dies.
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def replace_file(path: Path, text: str) -> None:
    """Writes ``path`` so that whoever reads it sees all of ``text`` or what was there before."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
