"""One linear layer on one rank: built, wrapped, loaded and run on an implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.protocol import Deployment, Implementation
from conformance.subjects.building import build_layer, call, load_weights
from conformance.subjects.outcomes import AdapterRefused, NotWrapped
from conformance.values.linear import CaseTensors, laid_out, rank_input
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.families import Family
from strategies.cases import Case


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
            raise NotWrapped(family, subclass=depth > 0)
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

    def local_input(self) -> Tensor:
        """What the rank's matmul sees: its columns of a row-parallel input that comes whole."""
        x = self.input()
        layer, ranks = self.case.layer, self.case.layer_tp_size
        if layer.family is Family.ROW and not layer.input_is_parallel and ranks > 1:
            return x.chunk(ranks, dim=-1)[self.group.rank].contiguous()
        return x


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
