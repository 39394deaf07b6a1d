"""State machines that write programs: each rule appends a step, knowing from the model who is where.

The model is the one that the clauses are judged by: `Shelf` for who is registered and active, and a fresh engine with
the active adapters alone for what every token gets. All that a step means is in `conformance.lifecycle`; a machine
only chooses what comes next, so that adapters come back, change places and meet a full house often. What is judged is
the finished `Program`, by the clause's own body, because the ranks of a model live inside one call of their engine:
so any engine runs it, and a failure is a value that is shrunk, stored, replayed and written down like any other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Set
from functools import wraps
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from hypothesis.strategies import SearchStrategy

from conformance.shelf import Outcome, Shelf, calls_in
from strategies.choices import sampled
from strategies.model_drawing import models
from strategies.program_drawing import frames
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

        return rule(who=who, **others)(step)

    return decorate


class Serving(ProgramMachine):
    """Adapters are used, leave, come back into other slots, and tokens are served in between."""

    @on_one_of(lambda machine: machine.waiting)
    def use(self, who: int) -> None:
        self.then(StepKind.USE, who)

    @on_one_of(lambda machine: machine.gone & machine.everybody)
    def bring_back(self, who: int) -> None:
        self.then(StepKind.USE, who)

    @on_one_of(lambda machine: machine.active - machine.shelf.pinned)
    def leave(self, who: int) -> None:
        self.then(StepKind.DEACTIVATE, who)

    @on_one_of(lambda machine: machine.active)
    def serve(self, who: int) -> None:
        self.then(StepKind.RUN, who % len(self.frame.batches))

    @on_one_of(lambda machine: machine.waiting if machine.mapped else set())
    def come_under_the_old_map(self, who: int) -> None:
        self.then(StepKind.USE, who)
        self.then(StepKind.RERUN)

    @on_one_of(lambda machine: machine.mapped & machine.gone)
    def serve_as_mapped(self, who: int) -> None:
        self.then(StepKind.RERUN)

    def ending(self) -> None:
        tokens = self.everybody & {*self.frame.batches[0]}
        if not self.served and not tokens & self.active:
            for one in self.registered:
                self.then(StepKind.REMOVE, one)
            self.then(StepKind.USE, min(tokens))


class Living(Serving):
    """Everything that may happen to adapters that fit."""

    frames = frames(adapters=(2, 3), spare=(1, 0))

    @on_one_of(lambda machine: machine.registered)
    def remove(self, who: int) -> None:
        self.then(StepKind.REMOVE, who)

    @on_one_of(lambda machine: machine.everybody, kind=sampled((StepKind.ADD, StepKind.ACTIVATE)))
    def prepare(self, kind: StepKind, who: int) -> None:
        self.then(kind, who)

    @on_one_of(lambda machine: machine.active if machine.frame.evict else set())
    def pin(self, who: int) -> None:
        self.then(StepKind.PIN, who)


class Keeping(ProgramMachine):
    """More adapters than places, in models that cost little: added, activated, pinned, used again, removed."""

    frames = frames(
        trees=models(linears=(1, 1), others=(0, 0), plain=True, tp_sizes=(1, 2)),
        adapters=(2, 3, 4),
        max_loras=(1, 2, 2),
    )
    max_steps = 16

    @on_one_of(lambda machine: machine.waiting)
    def use(self, who: int) -> None:
        self.then(StepKind.USE, who)

    @on_one_of(lambda machine: machine.registered, kind=sampled((StepKind.USE, StepKind.ADD, StepKind.ACTIVATE)))
    def use_again(self, kind: StepKind, who: int) -> None:
        self.then(kind, who)

    @on_one_of(lambda machine: machine.everybody - machine.registered)
    def add(self, who: int) -> None:
        self.then(StepKind.ADD, who)

    @on_one_of(lambda machine: machine.everybody - machine.registered if machine.active else set())
    def activate_a_stranger(self, who: int) -> None:
        self.then(StepKind.ACTIVATE, who)

    @on_one_of(lambda machine: machine.registered if machine.frame.evict else set())
    def pin(self, who: int) -> None:
        self.then(StepKind.PIN, who)

    @on_one_of(lambda machine: machine.active - machine.shelf.pinned)
    def leave(self, who: int) -> None:
        self.then(StepKind.DEACTIVATE, who)

    @on_one_of(lambda machine: machine.registered)
    def remove(self, who: int) -> None:
        self.then(StepKind.REMOVE, who)

    def ending(self) -> None:
        if all(outcome.result for outcome in self.outcomes):
            self.then(StepKind.ACTIVATE, min(self.registered, default=0))
            self.then(StepKind.ACTIVATE, min(self.registered, default=0))


class Meeting(Serving):
    """The last adapter does not fit, and is met in between."""

    frames = frames(misfits=tuple(Misfit)[1:], adapters=(2, 3), evict=(True, True, False))

    @rule()
    def meet_the_misfit(self) -> None:
        self.then(StepKind.USE, len(self.frame.adapters) - 1)

    def ending(self) -> None:
        if not any(step.adapter not in self.everybody for step in self.steps if step.kind is StepKind.USE):
            self.meet_the_misfit()


class Breaking(Serving):
    """Loads break off in the middle of models that have several layers."""

    frames = frames(
        trees=models(linears=(2, 4), others=(0, 0), plain=True, aliases=(False,)),
        adapters=(2, 3),
        evict=(True, True, False),
        disk=(False,),
    )

    @on_one_of(lambda machine: machine.waiting if machine.active else set())
    def break_off(self, who: int) -> None:
        self.then(StepKind.USE_FAILING, who)

    def ending(self) -> None:
        if StepKind.USE_FAILING not in [step.kind for step in self.steps]:
            if not self.waiting:
                self.then(StepKind.DEACTIVATE, 0)
            self.then(StepKind.USE_FAILING, min(self.waiting))
