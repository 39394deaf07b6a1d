"""Quant methods: how a linear layer stores its weight, multiplies with it, and gives it back dense.

The protocol is vLLM's (``create_weights``, ``process_weights_after_loading``, ``apply``); `Int8LinearMethod` is a
small weight-only scheme under which the reference is exercised on a weight that is not dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class QuantMethod(Protocol):
    """What a linear layer delegates its weight to."""

    def create_weights(
        self,
        layer: Any,
        input_size: int,
        output_sizes: Sequence[int],
        dtype: torch.dtype,
        loader: Callable[..., None],
    ) -> None:
        """Registers the parameters for ``Σ output_sizes`` local rows of ``input_size`` columns."""
        ...

    def process_weights_after_loading(self, layer: Any) -> None:
        """Turns loaded parameters into what ``apply`` reads."""
        ...

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x · Wᵀ + bias`` for ``x`` of shape ``[..., input_size]``."""
        ...

    def dequantize(self, layer: Any) -> Tensor:
        """The dense local weight ``[rows, input_size]`` that ``apply`` multiplies with."""
        ...


class UnquantizedLinearMethod:
    """The weight as it was loaded."""

    def create_weights(
        self,
        layer: Any,
        input_size: int,
        output_sizes: Sequence[int],
        dtype: torch.dtype,
        loader: Callable[..., None],
    ) -> None:
        weight = nn.Parameter(torch.empty(sum(output_sizes), input_size, dtype=dtype), requires_grad=False)
        set_loading(weight, loader, output_dim=0, input_dim=1)
        layer.register_parameter("weight", weight)

    def process_weights_after_loading(self, layer: Any) -> None:
        pass

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight: Tensor = layer.weight
        return functional.linear(x, weight, bias)

    def dequantize(self, layer: Any) -> Tensor:
        weight: Tensor = layer.weight
        return weight.detach()


class Int8LinearMethod(UnquantizedLinearMethod):
    """Weight-only int8, one power-of-two scale per output row (``weight_scale``, float32, ``[rows, 1]``).

    Quantized once loaded, so any weight loader serves it. With power-of-two scales small integers survive exactly,
    which lets the exact regime cover a quantized base layer (MATH-11).
    """

    def process_weights_after_loading(self, layer: Any) -> None:
        dense: Tensor = layer.weight.detach()
        if dense.dtype == torch.int8:
            return
        largest = dense.float().abs().amax(dim=1, keepdim=True).clamp(min=2.0**-20)
        scale = torch.exp2(torch.ceil(torch.log2(largest / 127)))
        quantized = torch.round(dense.float() / scale).clamp(-127, 127).to(torch.int8)
        layer.params_dtype = dense.dtype
        loading = layer.weight.__dict__
        layer.weight = nn.Parameter(quantized, requires_grad=False)
        layer.weight.__dict__.update(loading)
        layer.register_parameter("weight_scale", nn.Parameter(scale, requires_grad=False))

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, self.dequantize(layer).to(x.dtype), bias)

    def dequantize(self, layer: Any) -> Tensor:
        dense: Tensor = layer.weight.detach().float() * layer.weight_scale.detach()
        return dense.to(layer.params_dtype)


class QuantConfig:
    """Chooses the quant method of each layer, as vLLM's ``QuantizationConfig`` does."""

    def __init__(self, method: Callable[[], QuantMethod]) -> None:
        self._method = method

    def get_quant_method(self, layer: Any, prefix: str) -> QuantMethod:
        return self._method()


def set_loading(
    parameter: nn.Parameter, loader: Callable[..., None], *, output_dim: int | None, input_dim: int | None
) -> None:
    """Attaches what a weight loader reads: the loader itself and the dimensions that tensor parallelism cuts."""
    parameter.__dict__.update(weight_loader=loader, output_dim=output_dim, input_dim=input_dim)
