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
from functools import wraps
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from hypothesis.strategies import SearchStrategy

from conformance.oracles.shelf import Outcome, Shelf
from conformance.subjects.calls import calls_in
from strategies.choices import sampled
from strategies.programs import Misfit, Program, Step, StepKind


class ProgramMachine(RuleBasedStateMachine):
    """Draws a frame and appends steps to it; ``judge`` is handed the program once it is finished."""

    frames: ClassVar[SearchStrategy[Program]]
    max_steps: ClassVar[int] = 12

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


Choose = Callable[[ProgramMachine], Set[int]]
Rule = Callable[..., None]


def on_one_of(choose: Choose, **others: SearchStrategy[StepKind]) -> Callable[[Rule], Rule]:
    """A rule whose argument ``who`` is one of the numbers that ``choose`` finds.

    While there are none, somebody is used instead: a precondition would reject every case in which Hypothesis, which
    leaves some rules out of each, has left out those that are possible.
    """
    who = st.runner().flatmap(lambda machine: sampled(tuple(sorted(choose(machine) or machine.everybody))))

    def decorate(function: Rule) -> Rule:
        @wraps(function)
        def step(machine: ProgramMachine, who: int, **drawn: StepKind) -> None:
            if choose(machine):
                function(machine, who=who, **drawn)
            else:
                machine.then(StepKind.USE, who)

        drawn: dict[str, SearchStrategy[Any]] = {"who": who, **others}
        made: Rule = rule(**drawn)(step)  # type: ignore[call-overload]  # its other arguments are bundles
        return made

    return decorate
