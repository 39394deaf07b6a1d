"""The subject of a run: an implementation on an engine, and what it does with a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from conformance.building import build_layer, call, load_weights
from conformance.engines.ranks import CollectiveMismatch, Engine, RankFailed, RankGroup, RankHung, RankLost
from conformance.implementations.protocol import Deployment, Implementation
from conformance.oracle import Expected, expected_on
from conformance.values import CaseTensors, laid_out, rank_input, torch_dtype, values_of
from conformance.verdicts import Violation
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.cases import Case, Dtype
from strategies.codec import Spec
from strategies.programs import Program
from strategies.vocabulary import VocabularyCase

T = TypeVar("T")


class NotWrapped(Exception):
    """The implementation left the layer as it was, without a word."""


class SubjectRefused(Exception):
    """The implementation said that it will not serve the case."""


class SubjectRaised(Exception):
    """The implementation raised something that is no refusal."""


class AdapterRefused(Exception):
    """An adapter that fits its layer was refused: no WRAP-6 refusal, which is about layers."""


class HarnessError(Exception):
    """The oracle or the base layer failed by itself; nothing is known of the implementation."""


@dataclass(slots=True)
class RankSession:
    """One rank of a case on the implementation: the base layer, the LoRA layer, and calls of it."""

    case: Case
    tensors: CaseTensors
    implementation: Implementation
    group: RankGroup
    base: nn.Module = field(init=False)
    layer: nn.Module = field(init=False)

    def build(self) -> RankSession:
        """Builds, loads and finishes the base layer."""
        case, library = self.case, self.implementation.layers
        with library.ranked(self.group):
            self.base = self.layer = build_layer(case, library, torch_dtype(case.dtype), case.quantization)
            load_weights(case, library, self.base, self.tensors.weights, self.tensors.biases)
            if case.device != "cpu":  # where it was built
                self.base.to(case.device)
            library.finish(self.base)
        return self

    def wrap(self) -> RankSession:
        """Wraps it.

        Raises:
            NotWrapped: the implementation returned nothing.
        """
        with self.implementation.layers.ranked(self.group):
            wrapped = self.implementation.wrap(self.base, deployment_of(self.case))
        if wrapped is None:
            family, depth = self.case.layer.family.value, self.case.subclass.depth
            raise NotWrapped(f"a {family} layer was left unwrapped, {'a subclass' if depth else 'the base class'}")
        self.layer = wrapped
        return self

    def load(self) -> RankSession:
        """Loads every adapter of the case into its slot."""
        return self.load_adapters(self.handed_adapters())

    def handed_adapters(self) -> list[LayerAdapter]:
        """The case's adapters in its dtype, as they are handed to the implementation."""
        dtype = torch_dtype(self.case.dtype)
        return [cast_adapter(adapter, dtype, self.case.device) for adapter in self.tensors.adapters]

    def load_adapters(self, adapters: Sequence[LayerAdapter]) -> RankSession:
        """Loads these adapters into the slots of the case's own."""
        with self._loading():
            for spec, adapter in zip(self.case.adapters, adapters, strict=True):
                self.implementation.load(self.layer, spec.slot, adapter)
        return self

    def load_dummies(self, rank: int) -> RankSession:
        """Loads the warm-up's dummy adapter into the slots of the case's own."""
        with self._loading():
            for spec in self.case.adapters:
                self.implementation.load_dummy(self.layer, spec.slot, rank)
        return self

    def reset(self) -> RankSession:
        """Empties the slots of the case's adapters."""
        with self._loading():
            for spec in self.case.adapters:
                self.implementation.reset(self.layer, spec.slot)
        return self

    @contextmanager
    def _loading(self) -> Iterator[None]:
        with self.implementation.layers.ranked(self.group):
            try:
                yield
            except self.implementation.refusals as error:
                raise AdapterRefused(f"an adapter that fits: {type(error).__name__}: {error}") from error

    def run(self, slots: tuple[int, ...] | None = None, x: Tensor | None = None, *, as_is: bool = False) -> Any:
        """One forward with the case's tokens, or others; ``as_is`` through `Implementation.select_as_is`."""
        if x is None:
            x = self.input()
        with self.implementation.layers.ranked(self.group):
            if self.layer is not self.base:
                select = self.implementation.select_as_is if as_is else self.implementation.select
                select(self.layer, self.case.token_slots if slots is None else slots)
            return call(self.case, self.layer, x, self.tensors.gate.to(x))

    def input(self) -> Tensor:
        """This rank's input, in the case's dtype and layout."""
        x = rank_input(self.case, self.tensors, self.group.rank).to(torch_dtype(self.case.dtype))
        return laid_out(x.to(self.case.device), self.case.layout)


@dataclass(frozen=True, slots=True)
class Subject:
    """An implementation under test on an engine."""

    implementation: Implementation
    engine: Engine
    device: str = "cpu"

    def identity(self) -> dict[str, str]:
        """What is tested, and under which declaration about its products."""
        declared = Dtype.TF32 in self.implementation.dtypes(self.device)
        return dict(self.implementation.identity()) | ({"float32 products": "TF32"} if declared else {})

    def fitted(self, case: Spec) -> Spec:
        """``case`` as it can be run here: on this device, in a dtype that the implementation serves on it."""
        if isinstance(case, Case) and case.device != self.device:
            case = replace(case, device=self.device)
        served = self.implementation.dtypes(self.device)
        if isinstance(case, (Case, Program, VocabularyCase)) and case.dtype not in served:
            in_tf32 = case.dtype is Dtype.FLOAT32 and Dtype.TF32 in served
            case = replace(case, dtype=Dtype.TF32 if in_tf32 else served[case.seed % len(served)])
        return case

    def observe(self, case: Case, program: Callable[[RankSession], T]) -> list[T]:
        """Runs ``program`` on every rank.

        Raises:
            NotWrapped, SubjectRefused, SubjectRaised, CollectiveMismatch: what the implementation did instead.
            HarnessError: a rank hung or died, so nothing is known.
        """
        tensors = values_of(case)

        def on_rank(group: RankGroup) -> T:
            return program(RankSession(case, tensors, self.implementation, group))

        try:
            return self.engine.run(case.tp_size, on_rank)
        except RankFailed as failure:
            raise _named(failure, self.implementation) from failure
        except (RankHung, RankLost) as lost:
            raise HarnessError(str(lost)) from lost

    def expected(self, case: Case, tensors: CaseTensors | None = None) -> list[Expected]:
        """The right answer on each rank, for the case's own tensors unless others are given.

        Raises:
            HarnessError: the base layer cannot run by itself.
        """
        values = tensors or values_of(case)
        try:
            return self.engine.run(
                case.tp_size, lambda group: expected_on(case, values, self.implementation.layers, group)
            )
        except (RankFailed, RankHung, RankLost, CollectiveMismatch) as error:
            raise HarnessError(f"the base layer cannot run by itself: {error}") from error


def deployment_of(case: Case) -> Deployment:
    """The LoRA settings of a case."""
    return Deployment(case.max_loras, case.max_rank, case.fully_sharded, case.packed, torch_dtype(case.dtype))


def cast_adapter(adapter: LayerAdapter, dtype: torch.dtype, device: str = "cpu") -> LayerAdapter:
    """The adapter's tensors in ``dtype`` on ``device``."""
    parts = tuple(
        None if part is None else SubAdapter(part.lora_a.to(device, dtype), part.lora_b.to(device, dtype))
        for part in adapter.parts
    )
    return LayerAdapter(parts, adapter.scaling)


def _named(failure: RankFailed, implementation: Implementation) -> Exception:
    error = failure.error
    if isinstance(error, (NotWrapped, Violation)):
        return error  # what the clause itself found on a rank
    if isinstance(error, implementation.refusals):
        return SubjectRefused(str(failure))
    return SubjectRaised(str(failure))
