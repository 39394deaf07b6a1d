"""`ModelServer` of the reference: models of the library that its base layers are of, with the learned map."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import (
    AdaptersView,
    BaseModelError,
    HostedModel,
    ModelLibrary,
    ModelServer,
    ModelSettings,
    Parts,
    ServedModel,
    whose,
)
from lora_compat import LoRAConfig, LoRALinear, LoRAManager, tensor_parallel
from lora_compat.family import Family
from lora_compat.mapped import StackedWeights
from lora_compat.slot_layer import SlotLayer
from lora_compat.token_maps import REST

_WARM_UP_TOKENS = 8


class ReferenceModels(ModelServer):
    """Nothing is asked of a class: whatever its loader moves can have adapters."""

    def __init__(self, library: ModelLibrary) -> None:
        self._library, self.expert_parallel, self.in_turn = library, library.expert_parallel, library.in_turn

    def prepare(self) -> None:
        self._library.prepare()

    def options(self, architecture: str) -> tuple[str, ...]:
        return ()

    def load(self, directory: Path, settings: ModelSettings, group: RankGroup) -> ServedModel:
        bare = replace(settings, fused_experts=False)  # which an engine is told and the reference sees
        try:
            host = self._library.host(directory, bare, group)
        except BaseModelError:  # perhaps of a class that refuses LoRA, of which it need not know
            if not bare.lora:
                raise
            host = self._library.host(directory, replace(bare, lora=False), group)
        return ReferenceModel(self._library, directory, settings, host, group)


@cache
def models_of(library: ModelLibrary) -> ReferenceModels:
    """The one server of a library's models, under whom it is kept what was found out about a chain."""
    return ReferenceModels(library)


class ReferenceModel(ServedModel):
    """One rank's model and manager."""

    def __init__(
        self, library: ModelLibrary, directory: Path, settings: ModelSettings, host: HostedModel, group: RankGroup
    ) -> None:
        self._library, self._directory, self._settings = library, directory, settings
        self._host, self._group, self.forwards = host, group, host.forwards
        self.manager: LoRAManager | None = None

    def serve_adapters(self) -> None:
        maps = self._library.maps(self._directory, self._settings, self._group.size)
        config = LoRAConfig(
            max_loras=self._settings.max_loras,
            max_lora_rank=self._settings.max_rank,
            fully_sharded_loras=self._settings.fully_sharded,
        )
        with self._host.ranked(), tensor_parallel(self._group):
            self.manager = LoRAManager(
                self._host.model,
                config,
                target_modules=self._settings.restricted or None,
                max_adapters=self._settings.max_loras + self._settings.spare,
                checkpoint=maps[self._group.rank],
                ranks=maps,
                towers=self._outermost(),
            )

    def _outermost(self) -> tuple[str, ...]:
        """Those towers that are in no other."""
        names = self._host.towers()
        return tuple(name for name in names if not name.startswith(tuple(f"{other}." for other in names)))

    def add(self, number: int, directory: Path) -> None:
        assert self.manager is not None
        with self._host.ranked():
            self.manager.add(number, directory)
            self.manager.activate(number)

    def replace(self, number: int, directory: Path) -> None:
        assert self.manager is not None
        with self._host.ranked():
            self.manager.replace(number, directory)

    def remove(self, number: int) -> None:
        assert self.manager is not None
        self.manager.remove(number)

    def warm_up(self) -> None:
        assert self.manager is not None
        with self._host.ranked(), self.manager.warmed_up(_WARM_UP_TOKENS):
            pass

    def names(self) -> tuple[str, ...]:
        return self._host.names()

    def towers(self) -> tuple[str, ...]:
        return self._host.towers()

    def read(self, *numbers: int | None, apart: bool = False, only: Container[str] | None = None) -> dict[str, Parts]:
        return self._host.read(self._view(*numbers, apart=apart), only)

    def logits(self, number: int | None, tokens: Tensor) -> Tensor:
        return self._host.logits(self._view(number), tokens)

    def _view(self, *numbers: int | None, apart: bool = False) -> ReferenceView | None:
        if self.manager is None:
            return None
        return ReferenceView(self.manager, *numbers, parts=(*self._outermost(), REST), apart=apart)


class ReferenceView(AdaptersView):
    """The reference's layers, with the adapters that the tokens of a batch have in turn, or none."""

    def __init__(self, manager: LoRAManager, *numbers: int | None, parts: Sequence[str], apart: bool) -> None:
        self._manager, self._numbers, self._parts, self._apart = manager, numbers, parts, apart
        self._served: tuple[int, bool] | None = None  # by the last call; nobody else's comes in between

    def base_of(self, module: nn.Module) -> nn.Module | None:
        return module.base_layer if isinstance(module, LoRALinear) else None

    def weights(self, name: str, lora: Any, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self._numbers[0] is None:
            return {}
        slot, layers = self._manager.slots.index(self._numbers[0]), self._manager.layers
        stack = layers.get(name)
        if isinstance(stack, StackedWeights):
            return {attribute: stack.weight(attribute, slot) for attribute in stack.attributes}
        found = {attribute: layers.get(f"{name}.{attribute}" if name else attribute) for attribute in own}
        found |= {"weight": stack} if isinstance(stack, LoRALinear) else {}
        return {
            attribute: weight_of(layer, own[attribute], slot)
            for attribute, layer in found.items()
            if isinstance(layer, SlotLayer)
        }

    def merged(self, name: str) -> AbstractContextManager[None]:
        stack = self._manager.layers.get(name)
        if self._numbers[0] is None or not isinstance(stack, StackedWeights):
            return nullcontext()
        return stack.merged(self._manager.slots.index(self._numbers[0]))

    def serve(self, tokens: int, *, tower: bool = False) -> None:
        if self._served == (tokens, tower):
            return
        self._served = tokens, tower
        for part in self._parts:
            others = self._apart and (part == REST) is tower
            self._manager.map_tokens(whose(self._numbers, tokens, others=others), tower=part)


def weight_of(layer: SlotLayer, base: Tensor, slot: int) -> Tensor:
    """A matrix with what is in a slot of its layer, gathered where ranks have cut that."""
    plan, group = layer.plan, layer.delta.group
    lora_a, lora_b = layer.slots.lora_a[slot, 0], layer.slots.lora_b[slot]
    if plan.rank_shards > 1:
        lora_a = group.all_gather(lora_a.contiguous(), dim=0)
    if plan.fully_sharded and plan.family is Family.ROW:
        lora_b = group.all_gather(lora_b.contiguous(), dim=0)
    product = layer.slots.scaling[slot] * lora_b.double() @ lora_a.double()
    with torch._C.DisableTorchFunctionSubclass():
        return (base.double() + product.reshape(base.shape).to(base.device)).to(base.dtype)
