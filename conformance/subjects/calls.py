"""A program as the calls of a manager that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from strategies.programs import Program, Step, StepKind

_CALLS: dict[StepKind, tuple[str, ...]] = {
    StepKind.USE: ("add", "activate"),
    StepKind.USE_FAILING: ("add", "activate_failing"),
    StepKind.ADD: ("add",),
    StepKind.ACTIVATE: ("activate",),
    StepKind.DEACTIVATE: ("deactivate",),
    StepKind.REMOVE: ("remove",),
    StepKind.PIN: ("pin",),
    StepKind.REPLACE: ("replace",),
    StepKind.RUN: ("run",),
    StepKind.RERUN: ("rerun",),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a manager, by a method's name, with an adapter's number, or a batch's for runs."""

    method: str
    number: int

    @property
    def argument(self) -> int:
        """Its argument as people count: an adapter's id, or a batch's number."""
        return self.number if "run" in self.method else self.number + 1

    def __str__(self) -> str:
        return f"{self.method}({self.argument})"


def calls_in(step: Step, batches: int) -> Iterator[Call]:
    """The calls that ``step`` is made of, in a program of so many batches."""
    for method in _CALLS[step.kind]:
        yield Call(method, step.adapter % batches if "run" in method else step.adapter)


def calls_of(program: Program) -> Iterator[Call]:
    """The program as calls, and the first batch once more at its end."""
    pinned: set[int] = set()
    for step in (*program.steps, Step()):
        for call in calls_in(step, len(program.batches)):
            if call.method == "pin":
                pinned.add(call.number)
            if call.method == "deactivate" and call.number in pinned:
                continue
            if call.method == "remove":
                pinned.discard(call.number)
            yield call
