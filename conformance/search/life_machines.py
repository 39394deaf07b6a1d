"""The machines of LIFE: adapters are served, kept, met though they do not fit, and broken off in the middle."""

from __future__ import annotations

from hypothesis.stateful import rule

from conformance.search.program_machines import OneOf, ProgramMachine
from strategies.program_drawing import COMPANIED, frames
from strategies.programs import Misfit, StepKind
from strategies.tree_drawing import models

USE, RUN, RERUN, DEACTIVATE = StepKind.USE, StepKind.RUN, StepKind.RERUN, StepKind.DEACTIVATE
ADD, ACTIVATE, PIN, REMOVE = StepKind.ADD, StepKind.ACTIVATE, StepKind.PIN, StepKind.REMOVE
REPLACE = StepKind.REPLACE


class Coming(ProgramMachine):
    """Adapters are used, and leave."""

    use = OneOf(lambda machine: machine.waiting, (USE,))
    leave = OneOf(lambda machine: machine.active - machine.shelf.pinned, (DEACTIVATE,))


class Serving(Coming):
    """They come back into other slots, and tokens are served in between."""

    bring_back = OneOf(lambda machine: machine.gone & machine.everybody, (USE,))
    serve = OneOf(lambda machine: machine.active, (RUN,))
    come_under_the_old_map = OneOf(lambda machine: machine.waiting if machine.mapped else set(), (USE,), (RERUN,))
    serve_as_mapped = OneOf(lambda machine: machine.mapped & machine.gone, (RERUN,))

    def ending(self) -> None:
        tokens = self.everybody & {*self.frame.batches[0]}
        if not self.served and not tokens & self.active:
            for one in self.registered:
                self.then(REMOVE, one)
            self.then(USE, min(tokens))


class Keeping(Coming):
    """More adapters than places, in models that cost little: added, activated, pinned, used again, removed."""

    frames = frames(
        trees=models(linears=(1, 1), others=(0, 0), plain=True, tp_sizes=(1, 2)),
        adapters=(2, 3, 4),
        max_loras=(1, 2, 2),
    )
    max_steps = 16
    use_again = OneOf(lambda machine: machine.registered, (USE, ADD, ACTIVATE))
    add = OneOf(lambda machine: machine.everybody - machine.registered, (ADD,))
    activate_a_stranger = OneOf(
        lambda machine: machine.everybody - machine.registered if machine.active else set(), (ACTIVATE,)
    )
    pin = OneOf(lambda machine: machine.registered if machine.frame.evict else set(), (PIN,))
    pin_and_replace = OneOf(lambda machine: machine.registered if machine.frame.evict else set(), (PIN,), (REPLACE,))
    remove = OneOf(lambda machine: machine.registered, (REMOVE,))

    def ending(self) -> None:
        # In a full house who would leave next is used again, and another one comes: that shows who was used last.
        free = self.frame.max_loras - len(self.active)
        newcomers = sorted(self.waiting)[: free + 1]
        for one in (*newcomers[:free], *self.shelf.active[:1], *newcomers[free:]):
            self.then(USE, one)
        if all(outcome.result for outcome in self.outcomes):
            self.then(ACTIVATE, min(self.registered, default=0))
            self.then(ACTIVATE, min(self.registered, default=0))


class Living(Serving):
    """Everything that may happen to adapters that fit."""

    frames = frames(adapters=(2, 3), spare=(1, 0), companions=COMPANIED)
    remove = OneOf(lambda machine: machine.registered, (REMOVE,))
    prepare = OneOf(lambda machine: machine.everybody, (ADD, ACTIVATE))
    stay = OneOf(lambda machine: machine.active if machine.frame.evict else set(), (PIN, REPLACE))


class Meeting(Serving):
    """The last adapter does not fit, and is met in between."""

    frames = frames(misfits=tuple(Misfit)[1:], adapters=(2, 3), evict=(True, True, False), companions=COMPANIED)

    @rule()
    def meet_the_misfit(self) -> None:
        self.then(USE, len(self.frame.adapters) - 1)

    def ending(self) -> None:
        if not any(step.adapter not in self.everybody for step in self.steps if step.kind is USE):
            self.meet_the_misfit()


class Breaking(Serving):
    """Loads break off in the middle of models that have several layers."""

    frames = frames(
        trees=models(linears=(2, 4), others=(0, 0), plain=True, aliases=(False,)),
        adapters=(2, 3),
        evict=(True, True, False),
        disk=(False,),
        companions=(*((),) * 3, *COMPANIED[-4:]),
    )
    break_off = OneOf(lambda machine: machine.waiting if machine.active else set(), (StepKind.USE_FAILING,))

    def ending(self) -> None:
        own, slots = self.frame.batches[0][0], self.frame.max_loras
        others = sorted(self.everybody - {own})
        if self.frame.evict and len(others) >= slots:
            # Of a full house the first token's adapter is to leave when the load breaks off, and is served after it.
            for one in (own, *others[: slots - 1]):
                self.then(USE, one)
            self.then(StepKind.USE_FAILING, others[slots - 1])
        elif StepKind.USE_FAILING not in [step.kind for step in self.steps]:
            if not self.waiting:
                self.then(DEACTIVATE, 0)
            self.then(StepKind.USE_FAILING, min(self.waiting))
