"""What a quantized base layer really multiplies with, and how far that may be from its checkpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.protocol import LayerLibrary
from conformance.subjects.building import build_layer, load_weights
from conformance.values.linear import CaseTensors
from strategies.cases import Case, Quantization, Regime

# Half a step, in units of the largest value that shares a scale: the scales are powers of two, up to twice too large.
_INTEGER_STEP = {Quantization.INT8: 1 / 127, Quantization.INT4_PACKED: 1 / 7, Quantization.INT4_QWEIGHT: 1 / 7}
_E4M3_UNIT = 2.0**-4
_E4M3_SUBNORMAL = 2 / 448 * 2.0**-10


def quantized_layer(case: Case, tensors: CaseTensors, library: LayerLibrary) -> tuple[nn.Module, int]:
    """This rank's quantized layer, built and finished like any other, and its local input columns."""
    layer = build_layer(case, library, torch_dtype(case.dtype), case.quantization)
    load_weights(case, library, layer, tensors.weights, tensors.biases)
    columns = int(weight_of(layer).shape[1])
    library.finish(layer.to(case.device))
    return layer, columns


class KernelBase:
    """A quant method for a layer that holds nothing but s·B·A: the base product is the quantized layer's own.

    For kernels that quantize activations, each token in its own way: the operands they really use are theirs alone.
    With ``behind`` a known mistake is made: the adapters, too, are given what the kernel makes of the activations.
    """

    def __init__(self, quantized: nn.Module, case: Case, *, behind: bool = False) -> None:
        self._quantized, self._dtype, self._device = quantized, torch_dtype(case.dtype), case.device
        self._behind = behind

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``base(x) + x · (s·B·A)ᵀ + bias``, all but the base product in the precision of ``x``."""
        given = x.to(self._device, self._dtype)  # on a GPU the kernel may sum in another order than on a CPU
        base = _product(self._quantized, given)
        seen = activations_of(self._quantized, given).to(x) if self._behind else x
        return base.to(x) + functional.linear(seen, weight_of(layer), bias)


def _product(layer: nn.Module, x: Tensor) -> Tensor:
    """What the layer's own kernel multiplies."""
    method: Any = layer.quant_method
    product: Tensor = method.apply(layer, x, None)
    return product


def activations_of(quantized: nn.Module, x: Tensor) -> Tensor:
    """What the kernel of a drawn scheme makes of ``x [..., in]``: its product with a unit matrix."""
    method: Any = quantized.quant_method
    unit = method.quantize(torch.eye(x.shape[-1], dtype=torch.float32, device=x.device))
    made: Tensor = method.apply(SimpleNamespace(**unit, params_dtype=x.dtype), x)
    return made


def weight_of(layer: nn.Module) -> Tensor:
    """The weight that a layer of any library has."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def probed_weight(layer: nn.Module, columns: int, case: Case) -> Tensor:
    """``layer``'s weight as its kernel has it, on the CPU: the products with unit vectors, which do not round.

    Nothing that dequantizes outside the kernel is asked.
    """
    units = torch.eye(columns, dtype=torch_dtype(case.dtype), device=case.device)
    return _product(layer, units).detach().cpu().t().double()


def checkpoint_weight(case: Case, tensors: CaseTensors, library: LayerLibrary) -> Tensor:
    """The float64 weight ``[local rows, local in]`` that the checkpoint gives this rank, not quantized."""
    layer = build_layer(case, library, torch.float64)
    load_weights(case, library, layer, tensors.weights, tensors.biases)
    return weight_of(layer).detach()


def quantization_error(case: Case, dense: Tensor) -> Tensor:
    """How far a faithful scheme may move each element of ``dense [rows, in]``; nothing in the exact regime."""
    if case.regime is Regime.EXACT:
        return torch.zeros_like(dense)
    magnitude = dense.abs()
    rounding = torch.finfo(torch_dtype(case.dtype)).eps * magnitude
    if case.quantization in _INTEGER_STEP:
        return _INTEGER_STEP[case.quantization] * magnitude.amax(dim=1, keepdim=True) * 1.01 + rounding
    return _E4M3_UNIT * magnitude + _E4M3_SUBNORMAL * magnitude.amax() + rounding
