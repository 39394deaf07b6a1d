"""What the failures of a run come down to: a cause for each way of failing, whatever the clauses that it breaks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from conformance.contract import CONTRACT
from conformance.judging.facts import Raised
from conformance.judging.verdicts import Failure

_SCRIPT = re.compile(r"docs/findings/(?:\w+/)?(\d+)_\w+\.py$")


@dataclass(frozen=True, slots=True)
class Cause:
    """Failures of one anomaly, of one role in a model, and of one line where an exception was raised.

    That of the shortest case is first.
    """

    failures: tuple[Failure, ...]

    @property
    def smallest(self) -> Failure:
        """The failure with the shortest case."""
        return self.failures[0]

    @property
    def anomaly(self) -> str:
        """What is wrong, by name."""
        return self.smallest.anomaly

    @property
    def title(self) -> str:
        """The anomaly; of an exception what it says, too."""
        fact = self.smallest.fact
        said = str(fact).partition("\n")[0]
        return f"{self.anomaly} {said}" if isinstance(fact, Raised) and self.anomaly == "raised" else self.anomaly

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses that it breaks, in the contract's order."""
        return tuple(sorted({failure.clause for failure in self.failures}, key=order))

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        """Clause and anomaly of each failure, by which lists of known failures name them."""
        return frozenset(failure.key for failure in self.failures)


def causes(failures: Iterable[Failure]) -> list[Cause]:
    """The causes, in the order in which their first failures are given."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.anomaly, _raised_by(failure) or failure.role), []).append(failure)
    return [Cause(tuple(sorted(group, key=lambda failure: len(failure.shown)))) for group in groups.values()]


def finding_of(link: str) -> str:
    """The number of the finding that a link leads to, ``07`` of ``docs/findings/07_name.py``; empty for any other."""
    found = _SCRIPT.search(link)
    return found.group(1) if found else ""


def _raised_by(failure: Failure) -> str:
    """The exception and the line that raised it, whatever sizes its words are about."""
    fact = failure.fact
    if failure.anomaly != "raised" or not isinstance(fact, Raised):
        return ""
    return f"{fact.type} at {fact.site}" if fact.site else str(fact)


def order(clause: str) -> int:
    """The clause's place in the contract."""
    return list(CONTRACT).index(clause)
