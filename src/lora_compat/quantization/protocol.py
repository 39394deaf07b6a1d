"""The protocol of quant methods, the plain one, and what all schemes share that quantize only the weight.

The protocol is vLLM's: ``create_weights``, ``process_weights_after_loading``, ``apply``; ``dequantize`` is ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

# Where a layer keeps its weight: dense or one value per element, GPTQ and AWQ, compressed-tensors.
WEIGHT_NAMES = ("weight", "qweight", "weight_packed")


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


class WeightOnlyLinearMethod(UnquantizedLinearMethod, ABC):
    """Quantizes the weight once it is loaded, so any weight loader serves it, and multiplies with it dequantized.

    Scales are powers of two, as in the OCP microscaling formats. Small integers then survive exactly, which lets the
    exact regime cover quantized base layers (MATH-11).
    """

    def process_weights_after_loading(self, layer: Any) -> None:
        dense = layer._parameters.get("weight")
        if dense is None or dense.dtype is not layer.params_dtype:
            return  # it was done before
        for name, stored in self.quantize(dense.detach().float()).items():
            parameter = nn.Parameter(stored, requires_grad=False)
            if name in WEIGHT_NAMES:
                parameter.__dict__.update(dense.__dict__)
                del layer.weight
            layer.register_parameter(name, parameter)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, self.dequantize(layer).to(x.dtype), bias)

    @abstractmethod
    def quantize(self, dense: Tensor) -> dict[str, Tensor]:
        """The parameters that stand for ``dense [rows, in]`` (float32), by name, the weight itself first."""


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


def stored_weight(layer: nn.Module) -> Tensor | None:
    """The tensor that ``layer`` keeps its weight in, under whichever name; None where it has none.

    A quantized layer may have a ``weight`` that is None, or none at all.
    """
    found = (getattr(layer, name, None) for name in WEIGHT_NAMES)
    return next((tensor for tensor in found if isinstance(tensor, Tensor)), None)


def power_of_two_scale(largest: Tensor, most: float) -> Tensor:
    """The smallest power of two by which ``largest`` can be divided to be no more than ``most``."""
    return torch.exp2(torch.ceil(torch.log2(largest.clamp(min=2.0**-20) / most)))
