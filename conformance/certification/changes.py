"""What changed since an earlier run, by what `--results` wrote of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conformance.contract import CONTRACT
from conformance.judging.verdicts import ClauseResult
from conformance.suite.reporting import RESULTS_FORMAT, read_json

Key = tuple[str, str]  # clause and anomaly


class ResultsError(ValueError):
    """A file that holds no results; the message says what it is instead."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Clauses of another verdict, and failures that came or went."""

    file: Path
    verdicts: tuple[tuple[str, str, str], ...]  # clause, before, now
    new: tuple[Key, ...]
    gone: tuple[Key, ...]

    @classmethod
    def between(cls, file: Path, before: Mapping[str, ClauseResult], now: Mapping[str, ClauseResult]) -> Changes:
        """What is different ``now``."""
        told = [
            (clause, *(side[clause].verdict.value if clause in side else "not run" for side in (before, now)))
            for clause in CONTRACT
        ]
        had, has = _keys(before), _keys(now)
        return cls(
            file,
            tuple((clause, old, new) for clause, old, new in told if old != new),
            tuple(key for key in has if key not in had),
            tuple(key for key in had if key not in has),
        )


def read_results(file: Path) -> dict[str, ClauseResult]:
    """The results by clause that a run wrote to ``file``.

    Raises:
        ResultsError: it holds none.
    """
    document = read_json(file, ResultsError)
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != RESULTS_FORMAT or not isinstance(document.get("clauses"), dict):
        raise ResultsError(f"{file} holds no results: give what --results wrote, of format {RESULTS_FORMAT}")
    try:
        return {clause: ClauseResult.from_dict(one) for clause, one in document["clauses"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{file} is damaged: a field is missing or unknown ({error})") from error


def _keys(results: Mapping[str, ClauseResult]) -> list[Key]:
    found = {failure.key for result in results.values() for failure in result.failures}
    return sorted(found, key=lambda key: (list(CONTRACT).index(key[0]), key[1]))
