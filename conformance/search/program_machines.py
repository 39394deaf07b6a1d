"""State machines that write programs: each rule appends a step, knowing from the model who is where.

The model is the one that the clauses are judged by: `Shelf` for who is registered and active, and a fresh engine with
the active adapters alone for what every token gets. What a step means is in `conformance.subjects.programs`; a machine
only chooses what comes next, so that adapters come back, change places and meet a full house often. What is judged is
the finished `Program`, by the clause's own body, because the ranks of a model live inside one call of their engine:
so any engine runs it, and a failure is a value that is shrunk, stored, replayed and written down like any other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from hypothesis.strategies import SearchStrategy

from conformance.oracles.shelf import Outcome, Shelf
from conformance.subjects.calls import calls_in
from strategies.choices import sampled
from strategies.programs import Misfit, Program, Step, StepKind


@dataclass(frozen=True)
class OneOf:
    """A rule: one of those that ``choose`` finds does one of the ``kinds`` of step, and what comes ``after`` it.

    While there are none, somebody is used instead: a precondition would reject every case in which Hypothesis, which
    leaves some rules out of each, has left out those that are possible.
    """

    choose: Callable[[Any], Set[int]]
    kinds: tuple[StepKind, ...]
    after: tuple[StepKind, ...] = ()

    def rule(self, name: str) -> Any:
        """The rule by the name that Hypothesis knows it by."""

        def step(machine: ProgramMachine, who: int, kind: StepKind = self.kinds[0]) -> None:
            for one in (kind, *self.after) if self.choose(machine) else (StepKind.USE,):
                machine.then(one, who)

        step.__name__ = name
        who = st.runner().flatmap(lambda machine: sampled(tuple(sorted(self.choose(machine) or machine.everybody))))
        kinds: dict[str, Any] = {"kind": sampled(self.kinds)} if len(self.kinds) > 1 else {}
        decorate: Any = rule(who=who, **kinds)
        return decorate(step)


class ProgramMachine(RuleBasedStateMachine):
    """Draws a frame and appends steps to it; ``judge`` is handed the program once it is finished."""

    frames: ClassVar[SearchStrategy[Program]]
    max_steps: ClassVar[int] = 12

    def __init_subclass__(cls) -> None:
        for name, one in list(vars(cls).items()):
            if isinstance(one, OneOf):
                setattr(cls, name, one.rule(name))

    def __init__(self, judge: Callable[[Program], object]) -> None:
        super().__init__()
        self.judge = judge

    @initialize(frame=st.runner().flatmap(lambda machine: machine.frames))
    def begin(self, frame: Program) -> None:
        self.frame, self.shelf = frame, Shelf.of(frame)
        self.everybody = {number for number, one in enumerate(frame.adapters) if one.misfit is Misfit.NONE}
        self.steps: list[Step] = []
        self.outcomes: list[Outcome] = []
        self.mapped: set[int] = set()  # whom the last batch named
        self.gone: set[int] = set()  # who was active, and is not any more
        self.served = False

    def then(self, kind: StepKind, number: int = 0) -> None:
        """Appends a step, and follows it on the shelf."""
        number = {StepKind.RUN: number % len(self.frame.batches), StepKind.RERUN: 0}.get(kind, number)
        step, before = Step(kind, number), self.active
        self.steps.append(step)
        self.outcomes += [self.shelf.after(call) for call in calls_in(step, len(self.frame.batches))]
        self.gone = (self.gone | before) - self.active
        if kind is StepKind.RUN:
            self.mapped = self.active & {*self.frame.batches[number]}
            self.served |= bool(self.mapped)

    @property
    def active(self) -> set[int]:
        return set(self.shelf.active)

    @property
    def registered(self) -> set[int]:
        return set(self.shelf.registered)

    @property
    def waiting(self) -> set[int]:
        return self.everybody - self.active

    def ending(self) -> None:
        """Appends what the program needs to show anything at all, if it is not there yet."""

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # not where Hypothesis breaks off a draw
            self.ending()
            self.judge(self.frame.with_steps(*self.steps))
