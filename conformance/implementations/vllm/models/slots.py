"""What a LoRA layer's slots amount to, as the weight that the base layer would have to have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Weights, buffers and slots of a module itself."""
    return list(_tensors_in(vars(module)))


def _tensors_in(held: Mapping[str, object] | Iterable[object]) -> Iterator[Tensor]:
    for one in held.values() if isinstance(held, dict) else held:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (dict, list, tuple)) and one:
            yield from _tensors_in(one)


def linear_weight(lora: Any, slot: int, group: RankGroup) -> Tensor:
    """The weight of a linear layer with what is in one of its slots, where its forward cannot run."""
    base: Tensor = lora.base_layer.weight
    parts = [
        b[slot, 0].float() @ _whole(a[slot, 0], b.shape[-1], group, dim=0).float()
        for a, b in zip(lora.lora_a_stacked, lora.lora_b_stacked, strict=True)
    ]
    whole: Tensor = (base.float() + torch.cat(parts).reshape(base.shape)).to(base.dtype)
    return whole.cpu()


def expert_weights(lora: Any, own: Mapping[str, Tensor], slot: int, group: RankGroup) -> dict[str, Tensor]:
    """The stacked weights of a mixture with what is in a slot of its LoRA layer."""
    if not hasattr(lora, "w13_lora_a_stacked"):
        return {}
    first = [
        torch.einsum("eor,eri->eoi", b[slot].float(), _whole(a[slot], b.shape[-1], group, dim=1).float())
        for a, b in zip(lora.w13_lora_a_stacked, lora.w13_lora_b_stacked, strict=True)
    ]
    a, b = lora.w2_lora_a_stacked[0][slot], lora.w2_lora_b_stacked[0][slot]
    second = torch.einsum("eor,eri->eoi", _whole(b, own["w2_weight"].shape[1], group, dim=1).float(), a.float())
    deltas = {"w13_weight": _gate_and_up(first, lora), "w2_weight": second}
    return {name: _added(own[name], delta) for name, delta in deltas.items()}


def _gate_and_up(parts: Sequence[Tensor], lora: Any) -> Tensor:
    """What kernels make of the slices: one behind the other, or row by row in turn where the activation wants that."""
    in_turn = len(parts) == 2 and getattr(lora.moe_config.activation, "name", "") == "SWIGLUOAI"
    return torch.stack(tuple(parts), dim=2).flatten(1, 2) if in_turn else torch.cat(tuple(parts), dim=1)


def _added(weight: Tensor, delta: Tensor) -> Tensor:
    """The sum; a weight that lies transposed is told by its shape."""
    if weight.shape != delta.shape and weight.transpose(1, 2).shape == delta.shape:
        delta = delta.transpose(1, 2)
    return (weight.float() + delta.to(weight.device)).to(weight.dtype)


def _whole(part: Tensor, size: int, group: RankGroup, *, dim: int) -> Tensor:
    """All ranks' parts, where a fully sharded layer has cut the tensor."""
    return part if part.shape[dim] == size or group.size == 1 else group.all_gather(part.contiguous(), dim=dim)
