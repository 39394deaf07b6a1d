"""Proof: a test file run in a fresh process, where it must fail for the reason it was written for, or pass."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.judging.facts import Difference, Place, Raised
from conformance.judging.model_facts import Added
from conformance.regressions import witness
from conformance.regressions.entries import StoredFailure
from conformance.regressions.fresh import run_module

TIMEOUT_SECONDS = 300
_MOST_RANKS = 16
_FAILED = ("AssertionError", "Failed")  # an assertion, and pytest's own where nothing was raised


@dataclass(frozen=True, slots=True)
class FileRun:
    """One file's run: pytest's exit code (0 passed, 1 failed, anything else is an error), and what it printed.

    ``seen`` is what `witness` wrote down: the exception's ``type``, ``text`` and ``site``, and what was compared.
    """

    code: int
    output: str
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The exception in a line, or the last line that was printed."""
        if "type" in self.seen:
            return f"{self.seen['type']}: {self.seen['text'].partition(chr(10))[0]}"
        return self.output.strip().rpartition("\n")[2]


def run_file(path: Path, python: str = sys.executable) -> FileRun:
    """Runs ``pytest FILE`` as a stranger does: in its own directory, with no configuration or option of ours."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(witness.__file__), folder)
        seen = Path(folder, "seen.json")
        arguments = ["pytest", path.name, "--tb=short", "--color=no", "-p", "no:cacheprovider"]
        arguments += ["-p", "witness", "-c", os.devnull, "--rootdir", "."]
        also = {witness.FILE: str(seen), "PYTHONPATH": folder}
        code, output = _run(python, arguments, path.resolve().parent, also)
        return FileRun(code, output, json.loads(seen.read_text(encoding="utf-8")) if seen.exists() else {})


def replayed(path: Path, python: str = sys.executable) -> list[dict[str, str]]:
    """What ``lora-compat replay`` of a stored failure comes to, failure by failure; nothing where it cannot run."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        _run(python, ["conformance.cli", "replay", str(path.resolve()), "--results", str(results)], Path.cwd(), {})
        found: list[dict[str, str]] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
        return found


def _run(python: str, arguments: Sequence[str], directory: Path, also: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of ``python -m`` in a process that knows nothing of today's pytest; -1: no end."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment |= {"OMP_NUM_THREADS": "1", "HUMMING_DISABLE_PARALLEL_BUILD": "1"}
    for name, value in also.items():
        environment[name] = os.pathsep.join(filter(None, [value, environment.get(name)]))
    ended = run_module(arguments, directory, environment, TIMEOUT_SECONDS, python)
    return (-1, f"no end within {TIMEOUT_SECONDS} s") if ended.code is None else (ended.code, ended.output)


def same_reason(run: FileRun, failure: StoredFailure) -> bool:
    """Whether a failed run shows what the failure says: the same exception, or the same wrong number."""
    if run.code != 1:
        return False
    sighting = failure.sighting
    fact = sighting.fact
    if isinstance(fact, Raised) and (run.seen.get("type"), run.seen.get("site")) == (fact.type, fact.site):
        return True
    if failure.anomaly == "raised" or run.seen.get("type") not in _FAILED:
        return False
    if isinstance(fact, Added) and fact.element and "left" in run.seen:
        return _adds(run.seen["left"], fact, sighting.place.rank)
    if not isinstance(fact, Difference) or fact.output is None or not fact.element or "left" not in run.seen:
        return True
    return _shows(run.seen["left"], fact, sighting.place)


def _adds(added: Any, fact: Added, rank: int | None) -> bool:
    """Whether a matrix, or one for each rank, has the wrong number; row-parallel layers have one for all ranks."""
    whole = [row for one in added for row in one] if isinstance(added, list) else added
    return any(_equal(_at(one, fact.element), fact.actual) for one in (added, _at(added, [rank]), whole))


def _shows(outputs: object, fact: Difference, place: Place) -> bool:
    """Whether nested lists have the wrong number where it was seen; a dimension of ranks or tensors may be missing."""
    element = list(fact.element)
    if place.tokens:  # rows are counted among these tokens
        element[0] = place.tokens[element[0]]
    ranks = range(_MOST_RANKS) if place.rank is None else [place.rank]
    leadings = [one for rank in ranks for one in ([], [rank], [fact.output], [rank, fact.output])]
    return any(_equal(_at(outputs, [*leading, *element]), fact.actual) for leading in leadings)


def _at(nested: Any, indices: Sequence[int | None]) -> object:
    try:
        for index in indices:
            nested = nested[index]
    except (TypeError, IndexError):
        return None
    return nested


def _equal(found: object, value: float) -> bool:
    """Up to what a report shows of a number; NaN equals NaN."""
    return isinstance(found, float) and (f"{found:g}" == f"{value:g}")
