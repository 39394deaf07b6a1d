"""Weight-only int4 in groups of input columns, eight values to an int32 word, in the two layouts of the field.

compressed-tensors (``pack-quantized``) packs along each row and has no ``weight``; GPTQ packs down each column, and
its users meet layers whose ``weight`` is there but None (vllm #57503). Both store value + 8, the first of a word in
its lowest bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora_compat.quantization.protocol import WeightOnlyLinearMethod, power_of_two_scale

BITS = 4
PER_WORD = 32 // BITS
ZERO_POINT = 8
MOST = 7


class PackedInt4LinearMethod(WeightOnlyLinearMethod):
    """``weight_packed`` int32 ``[rows, ⌈in/8⌉]``, ``weight_scale`` ``[rows, groups]``, ``weight_shape``."""

    def __init__(self, group_size: int = 32) -> None:
        self.group_size = group_size

    def quantize(self, dense: Tensor) -> dict[str, Tensor]:
        values, scale = quantize_groups(dense, self.group_size)
        return {"weight_packed": pack(values), "weight_scale": scale, "weight_shape": torch.tensor(dense.shape)}

    def dequantize(self, layer: Any) -> Tensor:
        columns = int(layer.weight_shape[1])
        values = unpack(layer.weight_packed.detach(), columns)
        return dequantize_groups(values, layer.weight_scale.detach(), self.group_size).to(layer.params_dtype)


class QweightInt4LinearMethod(WeightOnlyLinearMethod):
    """``qweight`` int32 ``[⌈in/8⌉, rows]``, ``scales`` ``[groups, rows]``; ``weight`` is None."""

    def __init__(self, group_size: int = 32) -> None:
        self.group_size = group_size

    def quantize(self, dense: Tensor) -> dict[str, Tensor]:
        values, scale = quantize_groups(dense, self.group_size)
        return {"qweight": pack(values).t().contiguous(), "scales": scale.t().contiguous()}

    def process_weights_after_loading(self, layer: Any) -> None:
        super().process_weights_after_loading(layer)
        if "weight" not in layer._parameters:
            layer.register_parameter("weight", None)

    def dequantize(self, layer: Any) -> Tensor:
        values = unpack(layer.qweight.detach().t(), layer.input_size_per_partition)
        return dequantize_groups(values, layer.scales.detach().t(), self.group_size).to(layer.params_dtype)


def quantize_groups(dense: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Integers 0 to 15 ``[rows, in]``, scales ``[rows, groups]`` of a float32 weight; the last group may be short."""
    rows, columns = dense.shape
    padded = functional.pad(dense, (0, -columns % group_size))
    scale = power_of_two_scale(padded.view(rows, -1, group_size).abs().amax(dim=2), MOST)
    steps = torch.round(dense / spread(scale, group_size, columns)).clamp(-MOST, MOST)
    return steps.to(torch.int32) + ZERO_POINT, scale


def dequantize_groups(values: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """The float32 weight of integers 0 to 15 ``[rows, in]`` and scales ``[rows, groups]``."""
    return (values - ZERO_POINT).float() * spread(scale, group_size, values.shape[1])


def spread(scale: Tensor, group_size: int, columns: int) -> Tensor:
    """One scale per column, ``[rows, columns]``, from one per group."""
    return scale.float().repeat_interleave(group_size, dim=1)[:, :columns]


def pack(values: Tensor) -> Tensor:
    """Integers 0 to 15 ``[rows, columns]`` as int32 ``[rows, ⌈columns/8⌉]``, padded with zeros."""
    rows, columns = values.shape
    padded = functional.pad(values.to(torch.int64), (0, -columns % PER_WORD))
    words: Tensor = (padded.view(rows, -1, PER_WORD) << _shifts(values)).sum(dim=2)
    return words.to(torch.int32)


def unpack(words: Tensor, columns: int) -> Tensor:
    """The inverse of `pack`: int32 ``[rows, columns]``."""
    values: Tensor = (words.unsqueeze(2) >> _shifts(words)) & (2**BITS - 1)
    return values.flatten(1)[:, :columns]


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(0, 32, BITS, device=like.device, dtype=torch.int32)
