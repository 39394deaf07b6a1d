"""The machines of LIFE: adapters are served, kept, met though they do not fit, and broken off in the middle."""

from __future__ import annotations

from hypothesis.stateful import rule

from conformance.search.program_machines import ProgramMachine, on_one_of
from strategies.choices import sampled
from strategies.program_drawing import frames
from strategies.programs import Misfit, StepKind
from strategies.tree_drawing import models


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
