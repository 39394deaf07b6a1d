"""Runs a program on an implementation, every rank in step, and writes down what came of each call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.model_protocol import ModelDeployment, ModelManager
from conformance.implementations.protocol import Implementation
from conformance.subjects.adapter_files import write_adapter
from conformance.subjects.building import call, flatten
from conformance.subjects.calls import Call, calls_of
from conformance.subjects.outcomes import NotApplicable, NotWrapped
from conformance.subjects.records import LayerOutput, Problem, Record
from conformance.subjects.subject import Subject
from conformance.subjects.trees import build_tree
from conformance.values.linear import rank_input
from conformance.values.programs import ProgramValues, in_tower
from lora_compat.model_adapters import Adapter
from strategies.programs import Program

T = TypeVar("T")


def deployment_for(program: Program, targets: tuple[str, ...] | None = None) -> ModelDeployment:
    """The settings of a program's model."""
    return ModelDeployment(
        max_loras=program.max_loras,
        max_adapters=program.max_adapters,
        max_lora_rank=program.max_rank,
        fully_sharded=program.fully_sharded,
        packed=program.model.packing,
        dtype=torch_dtype(program.dtype),
        targets=targets,
        tower=program.model.tower,
        evict=program.evict,
    )


@dataclass(slots=True)
class ModelSession:
    """One rank of a program: the model, its manager, and calls of it."""

    implementation: Implementation
    device: str
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
        self.model = build_tree(self.values, self.implementation.layers, self.group).to(self.device)
        return self

    def wrap(self, targets: tuple[str, ...] | None = None) -> ModelSession:
        """Hands it to the implementation."""
        with self.implementation.layers.ranked(self.group):
            self.manager = self.implementation.manager(self.model, deployment_for(self.program, targets))
        return self

    def require_wrapped(self) -> ModelSession:
        """Every layer of a family carries LoRA.

        Raises:
            NotWrapped: one was left as it was; WRAP-1 speaks of that.
        """
        for module in self.program.model.linears:
            if not self.manager.wrapped(module.name):
                raise NotWrapped(
                    family := module.layer.family.value, said=f"a {family} layer left unwrapped (see WRAP-1)"
                )
        return self

    def play(self) -> list[Record]:
        """All calls of the program."""
        return [
            self.record(call)
            for call in calls_of(self.program)
            if call.method != "rerun" or self.manager.remaps_itself
        ]

    def record(self, step: Call) -> Record:
        """One call and what came of it; an error of a run is not caught."""
        before = self.state()
        if step.method in ("run", "rerun"):
            tokens, outputs = self.run(step.number if step.method == "run" else None)
            return Record(step, True, None, before, self.state(), outputs, tokens)
        with self.implementation.layers.ranked(self.group):
            try:
                result, problem = self._do(step), None
            except Exception as error:
                result, problem = None, Problem.of(error)
        return Record(step, result, problem, before, self.state())

    def state(self) -> tuple[frozenset[int], frozenset[int]]:
        """The numbers of the adapters registered, and active."""
        return frozenset(i - 1 for i in self.manager.registered()), frozenset(i - 1 for i in self.manager.active())

    def add(self, number: int) -> bool:
        """Registers an adapter, from memory or from its directory."""
        adapter = self._given(number)
        if isinstance(adapter, Path):
            return self.manager.add_directory(number + 1, adapter)
        return self.manager.add(number + 1, adapter)

    def _given(self, number: int) -> Adapter | Path:
        return self.paths[number] if self.paths else self.adapters[number]

    def _do(self, step: Call) -> bool | None:
        if step.method == "add":
            return self.add(step.number)
        if step.method == "pin":
            self.manager.pin(step.number + 1)
            return True
        if step.method == "replace":
            self.manager.replace(step.number + 1, self._given(step.number))
            return True
        if step.method != "activate_failing":
            return bool(getattr(self.manager, step.method)(step.number + 1))
        adapted = self.program.adapters[step.number].adapted
        module = self.program.model.linears[adapted[self.program.seed % len(adapted)]]
        with self.manager.failing_at(module.name):
            return self.manager.activate(step.number + 1)

    def run(self, batch: int | None) -> tuple[tuple[tuple[int, ...], ...], tuple[LayerOutput, ...]]:
        """Every layer, under each of its names; maps the batch first unless it is to stay as it was."""
        program, library = self.program, self.implementation.layers
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
                outputs.append(LayerOutput(index, name, tuple(self.run_layer(name, index))))
        return tuple(tokens), tuple(outputs)

    def run_layer(self, name: str, index: int) -> list[Tensor]:
        """One forward of layer ``index`` under one of its names, flattened, in memory of its own."""
        case, tensors = self.values.cases[index], self.values.tensors[index]
        dtype = torch_dtype(case.dtype)
        x = rank_input(case, tensors, self.group.rank).to(self.device, dtype)
        with self.implementation.layers.ranked(self.group):
            result = call(case, self.model.get_submodule(name), x, tensors.gate.to(self.device, dtype))
        return [tensor.detach().to("cpu", copy=True) for tensor in flatten(result)]

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
        HarnessError: a rank hung or died, so nothing is known.
    """
    spec, implementation = values.program, subject.implementation
    size = spec.model.tp_size
    reason = subject.engine.unsupported(size) or implementation.unsupported_model(spec.model, deployment_for(spec))
    if reason is not None:
        raise NotApplicable(reason)
    adapters = [values.adapter(number) for number in range(len(spec.adapters))]
    with _on_disk(values, adapters) as paths:
        return subject.on_ranks(
            size, lambda group: program(ModelSession(implementation, subject.device, values, group, adapters, paths))
        )


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
