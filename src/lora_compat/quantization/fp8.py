"""Weight-only FP8 (e4m3) with one scale per tensor, per output row, or per block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora_compat.quantization.protocol import WeightOnlyLinearMethod, power_of_two_scale

E4M3 = torch.float8_e4m3fn
MOST = torch.finfo(E4M3).max  # 448


class TensorFp8LinearMethod(WeightOnlyLinearMethod):
    """``weight`` e4m3 ``[rows, in]``, ``weight_scale`` float32 ``[1]``."""

    def quantize(self, dense: Tensor) -> dict[str, Tensor]:
        scale = power_of_two_scale(self.largest(dense), MOST)
        return {"weight": to_e4m3(dense / scale), "weight_scale": scale}

    def dequantize(self, layer: Any) -> Tensor:
        dense: Tensor = layer.weight.detach().float() * layer.weight_scale.detach()
        return dense.to(layer.params_dtype)

    def largest(self, dense: Tensor) -> Tensor:
        """The largest magnitude that shares a scale, in the scale's shape."""
        return dense.abs().amax().reshape(1)


class ChannelFp8LinearMethod(TensorFp8LinearMethod):
    """``weight`` e4m3 ``[rows, in]``, ``weight_scale`` float32 ``[rows, 1]``."""

    def largest(self, dense: Tensor) -> Tensor:
        return dense.abs().amax(dim=1, keepdim=True)


class DynamicFp8LinearMethod(ChannelFp8LinearMethod):
    """`ChannelFp8LinearMethod` whose activations are e4m3 too, with a scale per token found when they come (W8A8)."""

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        scale = power_of_two_scale(x.detach().float().abs().amax(dim=-1, keepdim=True), MOST)
        seen = to_e4m3(x.float() / scale).float() * scale
        return super().apply(layer, seen.to(x.dtype), bias)


class BlockFp8LinearMethod(WeightOnlyLinearMethod):
    """``weight`` e4m3 ``[rows, in]``, ``weight_scale_inv`` float32 ``[⌈rows/b₀⌉, ⌈in/b₁⌉]``, as DeepSeek-V3 has it."""

    def __init__(self, block: tuple[int, int] = (128, 128)) -> None:
        self.block = block

    def quantize(self, dense: Tensor) -> dict[str, Tensor]:
        (high, wide), (rows, columns) = self.block, dense.shape
        padded = functional.pad(dense, (0, -columns % wide, 0, -rows % high))
        blocks = padded.view(padded.shape[0] // high, high, padded.shape[1] // wide, wide)
        scale = power_of_two_scale(blocks.abs().amax(dim=(1, 3)), MOST)
        return {"weight": to_e4m3(dense / self.spread(scale, dense.shape)), "weight_scale_inv": scale}

    def dequantize(self, layer: Any) -> Tensor:
        stored: Tensor = layer.weight.detach()
        dense = stored.float() * self.spread(layer.weight_scale_inv.detach(), stored.shape)
        return dense.to(layer.params_dtype)

    def spread(self, scale: Tensor, shape: torch.Size) -> Tensor:
        """One scale per element, of ``shape``, from one per block."""
        high, wide = self.block
        whole = scale.repeat_interleave(high, dim=0).repeat_interleave(wide, dim=1)
        return whole[: shape[0], : shape[1]]


def to_e4m3(scaled: Tensor) -> Tensor:
    """``scaled`` rounded to e4m3; magnitudes beyond its largest saturate."""
    return scaled.clamp(-MOST, MOST).to(E4M3)
