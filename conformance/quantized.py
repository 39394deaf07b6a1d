"""What a quantized base layer really multiplies with, and how far that may be from its checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conformance.building import build_layer, load_weights
from conformance.implementations.protocol import LayerLibrary
from conformance.values import CaseTensors, torch_dtype
from strategies.cases import Case, Quantization, Regime

# Half a step, in units of the largest value that shares a scale: the scales are powers of two, up to twice too large.
_INTEGER_STEP = {Quantization.INT8: 1 / 127, Quantization.INT4_PACKED: 1 / 7, Quantization.INT4_QWEIGHT: 1 / 7}
_E4M3_UNIT = 2.0**-4
_E4M3_SUBNORMAL = 2 / 448 * 2.0**-10


def quantized_weight(case: Case, tensors: CaseTensors, library: LayerLibrary) -> Tensor:
    """The float64 weight ``[local rows, local in]`` of this rank's quantized layer, built and finished like any other.

    Call inside ``library.ranked(group)``.
    """
    layer = build_layer(case, library, torch_dtype(case.dtype), case.quantization)
    load_weights(case, library, layer, tensors.weights, tensors.biases)
    columns = layer.weight.shape[1]
    library.finish(layer)
    return probed_weight(layer, columns, torch_dtype(case.dtype))


def probed_weight(layer: nn.Module, columns: int, dtype: torch.dtype) -> Tensor:
    """``layer``'s weight as its kernel has it: the products with unit vectors, which do not round.

    Nothing that dequantizes outside the kernel is asked.
    """
    product: Tensor = layer.quant_method.apply(layer, torch.eye(columns, dtype=dtype), None)  # type: ignore[union-attr,operator]
    return product.detach().t().double()


def checkpoint_weight(case: Case, tensors: CaseTensors, library: LayerLibrary) -> Tensor:
    """The float64 weight ``[local rows, local in]`` that the checkpoint gives this rank, not quantized."""
    layer = build_layer(case, library, torch.float64)
    load_weights(case, library, layer, tensors.weights, tensors.biases)
    dense: Tensor = layer.weight.detach()  # type: ignore[union-attr,operator]
    return dense


def quantization_error(case: Case, dense: Tensor) -> Tensor:
    """How far a faithful scheme may move each element of ``dense [rows, in]``; nothing in the exact regime."""
    if case.regime is Regime.EXACT:
        return torch.zeros_like(dense)
    magnitude = dense.abs()
    rounding = torch.finfo(torch_dtype(case.dtype)).eps * magnitude
    if case.quantization in _INTEGER_STEP:
        return _INTEGER_STEP[case.quantization] * magnitude.amax(dim=1, keepdim=True) * 1.01 + rounding
    return _E4M3_UNIT * magnitude + _E4M3_SUBNORMAL * magnitude.amax() + rounding
