"""PEFT directories over the LoRA layers of a model with a map: what each adds to which parameter of this rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lora_compat.adapters import LayerAdapter, LoRAConfig, SubAdapter
from lora_compat.checkpoint_map import CheckpointMap, Factor, TensorDelta, load_factors
from lora_compat.embeddings import LoRAEmbedding
from lora_compat.errors import AdapterFormatError, AdapterShapeError, LoRAError
from lora_compat.mapped.stacks import StackedWeights
from lora_compat.mapped.wrapping import MappedModel
from lora_compat.model_adapters import Adapter, LayerAdapters
from lora_compat.parallel import TensorParallelGroup
from lora_compat.slot_layer import SlotLayer


class NotServedError(LoRAError):
    """An adapter of a checkpoint tensor that the model also keeps where no adapter reaches it."""

    def __init__(self, adapter: object, delta: TensorDelta, parameter: str, why: str) -> None:
        super().__init__(
            f"adapter {str(adapter)!r} adapts {delta.module!r}, and the model has {delta.tensor!r} in {parameter!r}, "
            f"{why}; it would be served in part, or not at all. Merge it into the checkpoint instead."
        )
        self.module, self.parameter = delta.module, parameter


@dataclass(frozen=True, slots=True)
class MappedLayout:
    """Lays adapters out over a model; ``maps`` are those of all ranks of a ``group``, in their order."""

    model: MappedModel
    config: LoRAConfig
    mine: CheckpointMap
    maps: Sequence[CheckpointMap]
    group: TensorParallelGroup

    def of(self, adapter: Adapter | str | Path) -> LayerAdapters:
        """An adapter by LoRA layer.

        Raises:
            AdapterFormatError, UnknownModulesError, NotMovedError: see `load_factors`.
            NotServedError: a tensor is also where no LoRA layer reaches it.
            AdapterShapeError: its rank is too large.
        """
        if isinstance(adapter, Adapter):
            raise AdapterFormatError(adapter.source, "a model with a checkpoint map takes PEFT directories")
        with torch._C.DisableTorchFunctionSubclass():  # it looks at the base weights, whatever adapters are active
            given = load_factors(
                adapter, self.mine, ranks=self.maps, parameters=self.model.parameters, group=self.group
            )
        for delta in given.deltas:
            self._require(delta, given.source)
        parts: dict[str, dict[str, list[Factor]]] = {}
        for parameter, factors in given.factors.items():
            for taker in self.model.takers.get(parameter, ()):
                mine = [one for one in factors if one.looked_up == taker.looked_up]
                if mine:
                    parts.setdefault(taker.layer, {}).setdefault(taker.attribute, []).extend(mine)
        return {name: self._of_layer(name, some) for name, some in parts.items()}

    def _require(self, delta: TensorDelta, source: str) -> None:
        """Somebody takes the delta, and nobody who should not has its tensor; alike on every rank."""
        rank = delta.lora_a.shape[1]
        if rank > self.config.max_lora_rank:
            expected = f"a rank of at most max_lora_rank={self.config.max_lora_rank}"
            expected += ", which a module that is saved whole takes as many of as it has rows" if delta.whole else ""
            raise AdapterShapeError(delta.module, "LoRA A", expected=expected, received=rank)
        places = {self.model.same.get(name, name): None for one in self.maps for name, _ in one.places(delta.tensor)}
        for parameter in places:
            if parameter in self.model.unserved:
                raise NotServedError(source, delta, parameter, self.model.unserved[parameter])
        head = self._dropped_head(delta)
        if head is not None:
            why = f"and drops {head!r}, a tensor of the same shape, in whose place it may multiply with that"
            raise NotServedError(source, delta, next(iter(places)), why)
        takers = [taker for parameter in places for taker in self.model.takers.get(parameter, ())]
        if not any(taker.looked_up == delta.looked_up for taker in takers):
            why = "which nobody looks up" if delta.looked_up else "which nobody multiplies with"
            raise NotServedError(source, delta, next(iter(places)), why)

    def _dropped_head(self, delta: TensorDelta) -> str | None:
        """A tensor like the embedding that a delta is of, which no rank keeps; None if there is none."""
        dropped = set.intersection(*(set(one.unmoved) for one in self.maps)) if delta.looked_up else set()
        shapes = self.maps[0].shapes
        return next((name for name in sorted(dropped) if shapes[name].shape == shapes[delta.tensor].shape), None)

    def _of_layer(self, name: str, factors: Mapping[str, Sequence[Factor]]) -> object:
        layer = self.model.layers[name]
        if isinstance(layer, StackedWeights):
            return {attribute: tuple(some) for attribute, some in factors.items()}
        (some,) = factors.values()
        if isinstance(layer, LoRAEmbedding):
            part, scaling = joined(some, layer.lora_a.shape[1], layer.lora_b.shape[1])
            return LayerAdapter((SubAdapter(part.lora_b.t(), part.lora_a.t()),), scaling)
        assert isinstance(layer, SlotLayer)
        plan = layer.plan
        part, scaling = joined(some, sum(plan.slice_sizes), len(plan.columns))
        return LayerAdapter((part,), scaling)


def joined(factors: Sequence[Factor], rows: int, columns: int) -> tuple[SubAdapter, float]:
    """Factors of one matrix as a single A and B with their ranks one behind the other, and a scaling for all."""
    scaling = next((one.scaling for one in factors if one.scaling), 1.0)
    ranks = [one.lora_a.shape[0] for one in factors]
    dtype = _widest([tensor for one in factors for tensor in (one.lora_a, one.lora_b)])
    lora_a, lora_b = torch.zeros(sum(ranks), columns, dtype=dtype), torch.zeros(rows, sum(ranks), dtype=dtype)
    start = 0
    for one, rank in zip(factors, ranks, strict=True):
        lora_a[start : start + rank, one.columns.tensor()] = one.lora_a.to(dtype)
        lora_b[one.rows.tensor(), start : start + rank] = one.lora_b.to(dtype) * (one.scaling / scaling)
        start += rank
    return SubAdapter(lora_a, lora_b), scaling


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    found = torch.float32
    for tensor in tensors:
        found = torch.promote_types(found, tensor.dtype)
    return found
