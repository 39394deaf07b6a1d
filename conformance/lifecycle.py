"""Runs a program on an implementation, every rank in step, and writes down what came of each call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from conformance.adapter_files import write_adapter
from conformance.engines.ranks import RankFailed, RankGroup, RankHung
from conformance.implementations.model_protocol import ModelDeployment, ModelManager
from conformance.oracle import flatten
from conformance.shelf import Call, calls_of
from conformance.subject import NotWrapped, Subject, SubjectRaised, SubjectRefused
from conformance.trees import ProgramValues, build_tree, in_tower, run_layer
from conformance.values import torch_dtype
from conformance.verdicts import NotApplicable, Violation
from lora_compat.model_adapters import Adapter
from strategies.cases import Dtype
from strategies.programs import Program

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """What one layer returned under one of its names, flattened."""

    index: int
    name: str
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What came of one call on one rank: its result or error, who was there afterwards, and what a run returned.

    ``tokens`` has, for a run, the adapter that should serve each token of each layer: the mapped one if it is active.
    """

    call: Call
    result: bool | None
    error: Exception | None
    before: tuple[frozenset[int], frozenset[int]]
    after: tuple[frozenset[int], frozenset[int]]
    outputs: tuple[LayerOutput, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()


def deployment_for(program: Program, targets: tuple[str, ...] | None = None) -> ModelDeployment:
    """The settings of a program's model."""
    return ModelDeployment(
        max_loras=program.max_loras,
        max_adapters=program.max_adapters,
        max_lora_rank=program.max_rank,
        fully_sharded=program.fully_sharded,
        packed=program.model.packing,
        dtype=torch_dtype(Dtype.FLOAT32),
        targets=targets,
        tower=program.model.tower,
        evict=program.evict,
    )


@dataclass(slots=True)
class ModelSession:
    """One rank of a program: the model, its manager, and calls of it."""

    subject: Subject
    values: ProgramValues
    group: RankGroup
    adapters: list[Adapter]
    paths: list[Path]
    model: nn.Module = field(init=False)
    manager: ModelManager = field(init=False)
    _mapped: tuple[int, ...] = ()

    @property
    def program(self) -> Program:
        return self.values.program

    def build(self) -> ModelSession:
        """Builds and loads the model."""
        self.model = build_tree(self.values, self.subject.implementation.layers, self.group)
        return self

    def wrap(self, targets: tuple[str, ...] | None = None) -> ModelSession:
        """Hands it to the implementation."""
        with self.subject.implementation.layers.ranked(self.group):
            self.manager = self.subject.implementation.manager(self.model, deployment_for(self.program, targets))
        return self

    def require_wrapped(self) -> ModelSession:
        """Every layer of a family carries LoRA.

        Raises:
            NotWrapped: one was left as it was; WRAP-1 speaks of that.
        """
        for module in self.program.model.linears:
            if not self.manager.wrapped(module.name):
                raise NotWrapped(f"a {module.layer.family.value} layer left unwrapped (see WRAP-1)")
        return self

    def play(self) -> list[Record]:
        """All calls of the program."""
        return [
            self.record(call)
            for call in calls_of(self.program)
            if call.method != "rerun" or self.manager.remaps_itself
        ]

    def record(self, call: Call) -> Record:
        """One call and what came of it; an error of a run is not caught."""
        before = self.state()
        if call.method in ("run", "rerun"):
            tokens, outputs = self.run(call.number if call.method == "run" else None)
            return Record(call, True, None, before, self.state(), outputs, tokens)
        with self.subject.implementation.layers.ranked(self.group):
            try:
                result, error = self._do(call), None
            except Exception as raised:
                result, error = None, raised
        return Record(call, result, error, before, self.state())

    def state(self) -> tuple[frozenset[int], frozenset[int]]:
        """The numbers of the adapters registered, and active."""
        return frozenset(i - 1 for i in self.manager.registered()), frozenset(i - 1 for i in self.manager.active())

    def add(self, number: int) -> bool:
        """Registers an adapter, from memory or from its directory."""
        if self.paths:
            return self.manager.add_directory(number + 1, self.paths[number])
        return self.manager.add(number + 1, self.adapters[number])

    def _do(self, call: Call) -> bool | None:
        if call.method == "add":
            return self.add(call.number)
        if call.method == "pin":
            self.manager.pin(call.number + 1)
            return True
        if call.method != "activate_failing":
            return bool(getattr(self.manager, call.method)(call.number + 1))
        adapted = self.program.adapters[call.number].adapted
        module = self.program.model.linears[adapted[self.program.seed % len(adapted)]]
        with self.manager.failing_at(module.name):
            return self.manager.activate(call.number + 1)

    def run(self, batch: int | None) -> tuple[tuple[tuple[int, ...], ...], tuple[LayerOutput, ...]]:
        """Every layer, under each of its names; maps the batch first unless it is to stay as it was."""
        program, library = self.program, self.subject.implementation.layers
        _, active = self.state()
        if batch is not None:
            self._mapped = tuple(number if number in active else -1 for number in program.batches[batch])
            with library.ranked(self.group):
                self._map()
        if not self._mapped:  # nothing was mapped yet
            return (), ()
        tokens, outputs = [], []
        for index, module in enumerate(program.model.linears):
            own = self._mapped[::-1] if in_tower(program.model, index) else self._mapped
            tokens.append(tuple(number if number in active else -1 for number in own))
            for name in module.names:
                result = flatten(run_layer(self.values, self.model, name, index, library, self.group))
                outputs.append(LayerOutput(index, name, tuple(tensor.clone() for tensor in result)))
        return tuple(tokens), tuple(outputs)

    def _map(self) -> None:
        ids = [number + 1 if number >= 0 else None for number in self._mapped]
        self.manager.map_tokens(ids)
        if self.program.model.tower:
            self.manager.map_tokens(ids[::-1], tower=True)


def observe_model(subject: Subject, values: ProgramValues, program: Callable[[ModelSession], T]) -> list[T]:
    """Runs ``program`` on every rank of a model.

    Raises:
        NotApplicable: the implementation declares such models unsupported.
        NotWrapped, SubjectRefused, SubjectRaised, CollectiveMismatch: what the implementation did instead.
    """
    spec, implementation = values.program, subject.implementation
    reason = implementation.unsupported_model(spec.model, evict=spec.evict)
    if reason is not None:
        raise NotApplicable(reason)
    adapters = [values.adapter(number) for number in range(len(spec.adapters))]
    with _on_disk(values, adapters) as paths:
        try:
            return subject.engine.run(
                spec.model.tp_size, lambda group: program(ModelSession(subject, values, group, adapters, paths))
            )
        except RankFailed as failure:
            raise _named(failure, implementation.refusals) from failure
        except RankHung as hung:
            raise SubjectRaised(str(hung)) from hung


def _named(failure: RankFailed, refusals: tuple[type[BaseException], ...]) -> Exception:
    error = failure.error
    if isinstance(error, (NotWrapped, AssertionError)) and not isinstance(error, refusals):
        return error if isinstance(error, (NotWrapped, Violation)) else SubjectRaised(str(failure))
    return SubjectRefused(str(failure)) if isinstance(error, refusals) else SubjectRaised(str(failure))


@contextmanager
def _on_disk(values: ProgramValues, adapters: list[Adapter]) -> Iterator[list[Path]]:
    """The adapters as PEFT directories, where the program wants them so."""
    if not values.program.from_disk:
        yield []
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"adapter_{number + 1}" for number in range(len(adapters))]
        for number, (path, adapter) in enumerate(zip(paths, adapters, strict=True)):
            write_adapter(path, adapter, values.parts(number))
        yield paths
