"""Through any nesting of wrappers to the base layer, its quant method and its dense weight (UNWRAP)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lora_compat.errors import LoRAError, QuantMethodNotFoundError, WrapperCycleError


class DenseWeightError(LoRAError):
    """A quantized weight that cannot be given back dense."""


def chain_of(module: nn.Module) -> Iterator[nn.Module]:
    """``module``, its ``base_layer``, the ``base_layer`` of that, and so on to the innermost.

    Raises:
        WrapperCycleError: the chain comes back to a module it has passed.
    """
    passed: list[nn.Module] = []
    layer: nn.Module | None = module
    while layer is not None:
        if any(layer is other for other in passed):
            raise WrapperCycleError([type(one).__qualname__ for one in (*passed, layer)])
        passed.append(layer)
        yield layer
        # Wrappers forward unknown attributes inwards, so only what a module holds itself counts as its base layer.
        layer = layer._modules.get("base_layer") or layer.__dict__.get("base_layer")


def unwrap(module: nn.Module) -> nn.Module:
    """The innermost module of the wrapper chain."""
    *_, innermost = chain_of(module)
    return innermost


def quant_method_of(module: nn.Module) -> Any:
    """The base layer's own quant method, from any nesting depth.

    A wrapper that has none, or None, does not end the search (UNWRAP-3).

    Raises:
        QuantMethodNotFoundError: no module of the chain has one.
        WrapperCycleError: the chain loops.
    """
    chain = list(chain_of(module))
    for layer in reversed(chain):
        quant_method = layer.__dict__.get("quant_method", layer._modules.get("quant_method"))
        if quant_method is not None:
            return quant_method
    raise QuantMethodNotFoundError([type(layer).__qualname__ for layer in chain])


def dense_weight(module: nn.Module) -> Tensor:
    """The local weight ``[rows, in]`` that the base layer's matmul really uses, dequantized where it is quantized.

    A quant method without a ``dequantize`` is asked for its products with unit vectors.

    Raises:
        DenseWeightError: it cannot be asked either.
    """
    layer: Any = unwrap(module)
    quant_method = quant_method_of(module)
    with torch._C.DisableTorchFunctionSubclass():  # this reader wants the base weight, adapters or not
        if hasattr(quant_method, "dequantize"):
            dense = quant_method.dequantize(layer)
        else:
            dense = getattr(layer, "weight", None)
            if not isinstance(dense, Tensor) or dense.dtype is not layer.params_dtype:
                dense = _product_with_unit_vectors(layer, quant_method)
        return dense.detach().as_subclass(Tensor)  # type: ignore[no-any-return]


def _product_with_unit_vectors(layer: Any, quant_method: Any) -> Tensor:
    columns = int(getattr(layer, "input_size_per_partition", layer.input_size))
    device = next(layer.parameters()).device
    apply = getattr(quant_method.apply, "apply", quant_method.apply)  # without the adapters, where it is intercepted
    try:
        product: Tensor = apply(layer, torch.eye(columns, dtype=layer.params_dtype, device=device), None)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise DenseWeightError(
            f"{type(quant_method).__qualname__!r} of {type(layer).__qualname__!r} has no 'dequantize', the layer no "
            f"dense 'weight', and its product cannot be read off: {error}. Give the quant method a dequantize(layer) "
            "that returns [out, in]."
        ) from error
    return product.t()
