"""What must become of every call of a program: who is registered, active, evicted, and when the house is full.

A few lines of policy, on sets of numbers alone: least recent use, where used means added or activated, again or for
the first time; what is pinned stays. Calls that no clause speaks about (unloading what is pinned) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from conformance.subjects.calls import Call, calls_of
from strategies.programs import Program


@dataclass(frozen=True, slots=True)
class Outcome:
    """What must come of it: False where there was nothing to do, None where it must be refused."""

    result: bool | None
    registered: frozenset[int]
    active: frozenset[int]


class Full(Exception):
    """Nobody may be evicted."""


@dataclass(slots=True)
class Shelf:
    """Numbers of adapters, least recently used first."""

    places: int
    slots: int
    evict: bool
    registered: list[int] = field(default_factory=list)
    active: list[int] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, program: Program) -> Shelf:
        """An empty one, as large as the program says."""
        return cls(program.max_adapters, program.max_loras, program.evict)

    def after(self, call: Call) -> Outcome:
        """Does ``call``."""
        try:
            result = getattr(self, "_" + call.method)(call.number)
        except (Full, KeyError):
            result = None
        return Outcome(result, frozenset(self.registered), frozenset(self.active))

    def _add(self, number: int) -> bool:
        fresh = number not in self.registered
        if fresh and len(self.registered) >= self.places:
            self._remove(self._oldest(self.registered))
        _use(self.registered, number)
        return fresh

    def _activate(self, number: int) -> bool:
        if number not in self.registered:
            raise KeyError(number)
        fresh = number not in self.active
        if fresh and len(self.active) >= self.slots:
            self.active.remove(self._oldest(self.active))
        _use(self.active, number)
        _use(self.registered, number)
        return fresh

    def _activate_failing(self, number: int) -> bool:
        if number not in self.active:
            raise KeyError(number)
        return self._activate(number)

    def _deactivate(self, number: int) -> bool:
        return _drop(self.active, number)

    def _remove(self, number: int) -> bool:
        _drop(self.active, number)
        self.pinned.discard(number)
        return _drop(self.registered, number)

    def _pin(self, number: int) -> bool:
        if number not in self.registered:
            raise KeyError(number)
        if number not in self.active:
            self._activate(number)
        self.pinned.add(number)
        return True

    def _replace(self, number: int) -> bool:
        self._add(number)
        self._activate(number)
        return True

    def _run(self, number: int) -> bool:
        return True

    _rerun = _run

    def _oldest(self, holders: list[int]) -> int:
        free = [holder for holder in holders if holder not in self.pinned]
        if not self.evict or not free:
            raise Full
        return free[0]


def _use(holders: list[int], number: int) -> None:
    _drop(holders, number)
    holders.append(number)


def _drop(holders: list[int], number: int) -> bool:
    if number not in holders:
        return False
    holders.remove(number)
    return True


def outcomes_of(program: Program) -> list[tuple[Call, Outcome]]:
    """Every call with what must come of it; of programs whose adapters all fit."""
    shelf = Shelf.of(program)
    return [(call, shelf.after(call)) for call in calls_of(program)]
