"""Proof: a test file run in a fresh process, where it must fail for the reason it was written for, or pass."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.judging.facts import Difference
from conformance.regressions.store import StoredFailure

TIMEOUT_SECONDS = 300
_COMPARED = re.compile(r"^E\s+(?:AssertionError: )?assert (.+) == (.+)$", re.MULTILINE)
_RAISED = re.compile(r"^E\s+(?P<type>[\w.]+): (?P<text>.*)$", re.MULTILINE)
_TELLING = 12  # characters that an exception's text has at least, to be known by
_MOST_RANKS = 16
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class FileRun:
    """What pytest said of one file: its exit code (0 passed, 1 failed, anything else is an error) and its output."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        """The line that says most: the first one that pytest marks as an error, or the last of all."""
        lines = self.output.strip().splitlines()
        return next((line[1:].strip() for line in lines if line.startswith("E  ")), lines[-1] if lines else "")


def run_file(path: Path, python: str = sys.executable) -> FileRun:
    """Runs ``pytest FILE`` as a stranger does: in its own directory, with no configuration or option of ours."""
    command = [python, "-m", "pytest", path.name, "-vv", "--tb=short", "--color=no", "-p", "no:cacheprovider"]
    return run_fresh([*command, "-c", os.devnull, "--rootdir", "."], path.resolve().parent)


def run_replay(path: Path, python: str = sys.executable) -> FileRun:
    """``lora-compat replay`` of a stored failure."""
    return run_fresh([python, "-m", "conformance.cli", "replay", str(path.resolve())], Path.cwd())


def run_fresh(command: Sequence[str], directory: Path) -> FileRun:
    """A command in a process that knows nothing of the pytest that runs now."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment |= {"OMP_NUM_THREADS": "1", "HUMMING_DISABLE_PARALLEL_BUILD": "1"}
    # A file, because a pipe stays open as long as any process that vLLM leaves in the background.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return FileRun(-1, f"no end within {TIMEOUT_SECONDS} s")
        output.seek(0)
        return FileRun(done.returncode, output.read())


_NOT_CLOSE = ("Mismatched elements", "are not close")  # as torch.testing has it


def same_reason(run: FileRun, failure: StoredFailure) -> bool:
    """Whether a failed run shows what the failure says: the same exception, or the same wrong number."""
    if run.code != 1:
        return False
    sighting = failure.sighting
    seen, where = sighting.fact, sighting.place
    message = _plain(str(seen))
    raised = [_plain(found["text"]) for found in _RAISED.finditer(run.output)]
    if any(len(text) > _TELLING and text in message for text in raised):
        return True
    if failure.anomaly == "raised":
        return False
    compared = _COMPARED.search(run.output)
    if not isinstance(seen, Difference) or seen.output is None or not seen.element or compared is None:
        return "assert" in run.last_line or any(told in run.output for told in _NOT_CLOSE)
    place = list(seen.element)
    if where.tokens:  # rows are counted among these tokens
        place[0] = where.tokens[place[0]]
    ranks = range(_MOST_RANKS) if where.rank is None else [where.rank]
    return any(_holds(compared.group(1), seen.actual, rank, seen.output, place) for rank in ranks)


def _plain(text: str) -> str:
    return _NUMBERS.sub("#", " ".join(text.split()))


def _holds(text: str, value: float, rank: int, tensor: int, place: Sequence[int]) -> bool:
    """Whether nested lists have ``value`` there; a dimension of ranks, or of tensors, may be missing."""
    try:
        outputs = ast.literal_eval(text.replace("nan", "None"))
    except (ValueError, SyntaxError):
        return False
    for leading in ([], [rank], [tensor], [rank, tensor]):
        found = outputs
        try:
            for index in (*leading, *place):
                found = found[index]
        except (TypeError, IndexError):
            continue
        if found is None and value != value:
            return True
        if isinstance(found, float) and f"{found:g}" == f"{value:g}":
            return True
    return False
