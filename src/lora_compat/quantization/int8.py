"""Weight-only int8 with one scale per output row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lora_compat.quantization.protocol import WeightOnlyLinearMethod, power_of_two_scale

MOST = 127


class Int8LinearMethod(WeightOnlyLinearMethod):
    """``weight`` int8 ``[rows, in]``, ``weight_scale`` float32 ``[rows, 1]``."""

    def quantize(self, dense: Tensor) -> dict[str, Tensor]:
        scale = power_of_two_scale(dense.abs().amax(dim=1, keepdim=True), MOST)
        quantized = torch.round(dense / scale).clamp(-MOST, MOST).to(torch.int8)
        return {"weight": quantized, "weight_scale": scale}

    def dequantize(self, layer: Any) -> Tensor:
        dense: Tensor = layer.weight.detach().float() * layer.weight_scale.detach()
        return dense.to(layer.params_dtype)
