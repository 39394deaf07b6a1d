"""One run as several: which of its tests are whose, and which of them a part has really run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

PLACE = "place_in_the_run"  # rides on each test's report, and so survives the worker that ran it


@dataclass(frozen=True, slots=True)
class Part:
    """The ``index``-th of ``count`` parts, from 1; the k-th test of a run belongs to part k mod ``count``."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, given: str) -> Part:
        """The part written as ``2/3``.

        Raises:
            ValueError: it is not one.
        """
        index, slash, count = given.partition("/")
        part = cls(int(index), int(count)) if slash and index.isdecimal() and count.isdecimal() else cls(0, 0)
        if not 1 <= part.index <= part.count:
            raise ValueError(f"{given!r} is no part of a run: give i/n with i from 1 to n, for instance 1/3")
        return part

    def has(self, position: int) -> bool:
        """Whether the test at ``position``, from 0, belongs to it."""
        return position % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(slots=True)
class Coverage:
    """How many tests the whole run has, a hash of their names, and the positions of those that this part has run."""

    part: Part
    tests: int = 0
    names: str = ""
    ran: set[int] = field(default_factory=set)

    def add(self, place: Sequence[Any]) -> None:
        """Notes a test, by what `keep` put on it."""
        position, self.tests, self.names = place
        self.ran.add(position)

    @property
    def own(self) -> set[int]:
        """The positions of the part's tests."""
        return {position for position in range(self.tests) if self.part.has(position)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"part": str(self.part), "tests": self.tests, "names": self.names, "ran": sorted(self.ran)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Coverage:
        """The inverse of `to_dict`."""
        return cls(Part.parse(data["part"]), data["tests"], data["names"], set(data["ran"]))


def keep(part: Part, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the part's tests among those of the whole run, and writes on each where in the run it is."""
    names = "\n".join(item.nodeid.rpartition("/")[2] for item in items)
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    for position, item in enumerate(items):
        item.user_properties.append((PLACE, [position, len(items), digest]))
    others = [item for position, item in enumerate(items) if not part.has(position)]
    items[:] = [item for position, item in enumerate(items) if part.has(position)]
    if others:
        config.hook.pytest_deselected(items=others)
