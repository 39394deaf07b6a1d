"""False alarms: the reference and known-good variants of it, over many seeds; nothing may be reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks.power.hunting import ClauseTest, Patch
from conformance.judging.verdicts import Verdict
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun


@dataclass(slots=True)
class Alarms:
    """What came of many runs of something right."""

    name: str
    seeds: int = 0
    cases: int = 0
    vain: int = 0
    refused: int = 0
    seconds: float = 0.0
    found: tuple[str, ...] = ()

    @classmethod
    def over(
        cls, name: str, subject: Subject, tests: Iterable[ClauseTest], *, seeds: range, cases: int, patch: Patch
    ) -> Alarms:
        """Runs every test with every seed, ``cases`` cases each."""
        alarms = cls(name, seeds=len(seeds))
        tests = tuple(tests)
        with patch():
            for seed in seeds:
                for test in tests:
                    alarms._add(test, subject, seed, cases)
        return alarms

    def _add(self, test: ClauseTest, subject: Subject, seed: int, cases: int) -> None:
        result = ClauseRun(subject, Budget(cases, seed)).check(test.clause, test.name, test.strategy, test.body)
        self.cases += result.cases
        self.vain += result.counts[Verdict.NOT_EXERCISED.value]
        self.refused += result.counts[Verdict.REFUSED.value]
        self.seconds += result.seconds
        shown = [f"{one.clause} {one.anomaly}: {one.shown}" for one in result.failures]
        self.found += (*shown, *result.errors)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {name: getattr(self, name) for name in type(self).__slots__}


def joined(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each run, of the rows of its tests, which follow each other."""
    runs = [list(tests) for _, tests in groupby(rows, key=lambda row: tuple(row["run"][:3]))]
    sums = ("cases", "vain", "refused", "seconds")
    return [
        {
            "run": tests[0]["run"][:3],
            "name": tests[0]["name"],
            "seeds": 1,
            **{name: sum(one[name] for one in tests) for name in sums},
            "found": [found for one in tests for found in one["found"]],
            **{name: tests[0][name] for name in ("commit", "torch")},
        }
        for tests in runs
    ]
