"""`LoRAExperts`: the LoRA layer for a mixture of experts. Every expert of every adapter is a slot of its own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_compat.adapters import LayerAdapter, LoRAConfig
from lora_compat.delta import NO_TOKENS, LoRADelta
from lora_compat.errors import AdapterShapeError, SlotError, TokenCountError, UnsupportedLayerError
from lora_compat.expert_parts import ExpertAdapter, ExpertsAdapter, plans_of
from lora_compat.experts import ELSEWHERE, FusedMoE
from lora_compat.kernels import NO_ADAPTER, TokenBatch
from lora_compat.parallel import SINGLE
from lora_compat.slots import SlotBuffers

_WRAPPER = "_lora_experts"


class LoRAExperts(nn.Module):
    """A `FusedMoE` with adapters, added where its forward multiplies.

    Fully sharded, the rank of gate and up is cut over the tensor-parallel ranks, and the output rows of down are;
    what expert parallelism leaves whole is not cut.
    """

    base_layer: nn.Module

    def __init__(self, base_layer: FusedMoE, config: LoRAConfig, *, name: str = "") -> None:
        super().__init__()
        self.base_layer = base_layer
        self.name = name or type(base_layer).__qualname__
        self.max_loras, self.max_rank = config.max_loras, config.max_lora_rank
        self.experts = base_layer.experts
        self.batch = NO_TOKENS
        slots = LoRAConfig(
            config.max_loras * len(self.experts), config.max_lora_rank, config.fully_sharded_loras, config.lora_dtype
        )
        group = SINGLE if base_layer.use_ep else base_layer.group
        self.deltas: dict[str, LoRADelta] = {}
        for weight, plan in plans_of(base_layer, fully_sharded=config.fully_sharded_loras).items():
            dtype, device = config.lora_dtype or base_layer.params_dtype, base_layer.w2_weight.device
            buffers = SlotBuffers(plan, slots, dtype=dtype, device=device, module=f"{self.name}.{weight}")
            self.deltas[weight] = LoRADelta(buffers, group, self.name)
        base_layer.__dict__[_WRAPPER] = weakref.ref(self)
        method: Any = base_layer.quant_method
        if not isinstance(method.apply, InterceptedExperts):
            method.apply = InterceptedExperts(method.apply)

    @property
    def rank_shards(self) -> int:
        """Into how many parts this layer cuts the LoRA rank."""
        return max(delta.slots.plan.rank_shards for delta in self.deltas.values())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer's forward, with the batch's adapters in its products."""
        return self.base_layer(*args, **kwargs)

    def set_lora(self, slot: int, adapter: ExpertsAdapter) -> None:
        """Loads ``adapter`` into ``slot``; this rank takes its experts and its parts of them.

        Raises:
            SlotError, AdapterShapeError, AmbiguousPartsError: the slot is untouched.
        """
        self._require(slot)
        self.check(adapter)
        for expert in self.experts:
            for weight, part in _parts(adapter.experts[expert] or ExpertAdapter(), adapter.scaling).items():
                self.deltas[weight].slots.load(self._place(slot, expert - self.experts.start), part)

    @property
    def lora_device(self) -> torch.device:
        """Where the slots are."""
        return self.deltas["w2_weight"].slots.lora_a.device

    def check(self, adapter: ExpertsAdapter) -> None:
        """Whether ``adapter`` would load into any slot.

        Raises:
            AdapterShapeError, AmbiguousPartsError: it has another number of experts, or a tensor does not fit.
        """
        total, given = self.base_layer.global_num_experts, len(adapter.experts)
        if given != total:
            raise AdapterShapeError(self.name, "LoRA", expected=f"{total} experts", received=f"{given} experts")
        for one in adapter.experts:
            for weight, part in _parts(one or ExpertAdapter(), adapter.scaling).items():
                self.deltas[weight].slots.check(part)

    def saved(self, slot: int) -> tuple[Tensor, ...]:
        """A copy of what ``slot`` holds, for `restore`."""
        self._require(slot)
        return tuple(tensor for slots, place in self._slots(slot) for tensor in slots.saved(place))

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Puts back what `saved` copied."""
        places = self._slots(slot)
        each = len(saved) // len(places)
        for index, (slots, place) in enumerate(places):
            slots.restore(place, saved[index * each : (index + 1) * each])

    def reset_lora(self, slot: int) -> None:
        """Empties ``slot``."""
        self._require(slot)
        for slots, place in self._slots(slot):
            slots.reset(place)

    def set_batch(self, batch: TokenBatch | None) -> None:
        """Selects which slot serves each token of the next forwards; None: no adapters."""
        self.batch = NO_TOKENS if batch is None else batch

    def add_to(self, output: Tensor, x: Tensor, experts: Tensor, name: str) -> Tensor:
        """``output [pairs, out]`` plus the contribution of each pair's adapter to its expert.

        Raises:
            TokenCountError: the pairs are not those of the batch's tokens.
        """
        if not len(self.batch) or len(experts) % len(self.batch):
            raise TokenCountError(self.name, len(experts), len(self.batch))
        each = len(experts) // len(self.batch)
        delta = self.deltas[name]
        delta.batch = TokenBatch.of(self._places(self.batch.slots, experts.tolist(), each), output.device)
        # Ranks that share an expert have the same pairs, so they all take part in what sharding collects, or none.
        return delta.add_to(output, x) if delta.batch.active else output

    def _places(self, slots: Sequence[int], experts: list[int], each: int) -> list[int]:
        """The slot of each pair's adapter and expert, `NO_ADAPTER` for none."""
        return [
            NO_ADAPTER
            if slots[pair // each] == NO_ADAPTER or expert == ELSEWHERE
            else self._place(slots[pair // each], expert)
            for pair, expert in enumerate(experts)
        ]

    def _slots(self, slot: int) -> list[tuple[SlotBuffers, int]]:
        """Every expert's buffers, and its place in them."""
        experts = range(len(self.experts))
        return [(delta.slots, self._place(slot, expert)) for delta in self.deltas.values() for expert in experts]

    def _place(self, slot: int, expert: int) -> int:
        return slot * len(self.experts) + expert

    def _require(self, slot: int) -> None:
        if slot not in range(self.max_loras):
            raise SlotError(slot, self.max_loras)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            base_layer = self.__dict__.get("_modules", {}).get("base_layer")
            if base_layer is None:
                raise
            return getattr(base_layer, name)


class InterceptedExperts:
    """Stands in for a quant method's ``apply`` and adds the contribution of the layer it is called with."""

    def __init__(self, apply: Callable[..., Tensor]) -> None:
        self.apply = apply

    def __call__(self, layer: nn.Module, x: Tensor, experts: Tensor, name: str) -> Tensor:
        output = self.apply(layer, x, experts, name)
        reference = layer.__dict__.get(_WRAPPER)
        wrapper = reference() if reference else None
        return wrapper.add_to(output, x, experts, name) if wrapper is not None and wrapper.batch.active else output


def wrap_experts(layer: nn.Module, config: LoRAConfig, *, name: str = "") -> LoRAExperts:
    """The LoRA layer for a mixture; wrapping what is wrapped already gives the wrapper it has (WRAP-5).

    Raises:
        UnsupportedLayerError: ``layer`` is no `FusedMoE`.
    """
    if isinstance(layer, LoRAExperts):
        return layer
    if not isinstance(layer, FusedMoE):
        raise UnsupportedLayerError(layer, "it is no FusedMoE", name=name)
    reference = layer.__dict__.get(_WRAPPER)
    wrapper = reference() if reference else None
    return wrapper if isinstance(wrapper, LoRAExperts) else LoRAExperts(layer, config, name=name)


def _parts(expert: ExpertAdapter, scaling: float) -> dict[str, LayerAdapter]:
    return {
        "w13_weight": LayerAdapter(expert.gate_up, scaling),
        "w2_weight": LayerAdapter((expert.down,), scaling),
    }
