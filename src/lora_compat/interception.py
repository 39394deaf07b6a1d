"""Interception of ``quant_method.apply``: the one place where every well-behaved forward multiplies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lora_compat.delta import LoRADelta
from lora_compat.token_identity import anonymous

_DELTA = "_lora_delta"


class InterceptedApply:
    """Stands in for a quant method's ``apply`` and adds the LoRA contribution of the layer it is called with.

    It is an attribute of the quant method's *instance*, so the object and its class stay what they were
    (UNWRAP-1), and one quant method may serve several layers, wrapped or not.
    """

    def __init__(self, apply: Callable[..., Tensor]) -> None:
        self.apply = apply

    def __call__(self, layer: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        delta = delta_of(layer)
        if delta is None:
            return self.apply(layer, x, *args, **kwargs)
        outer, delta.inside_apply = delta.inside_apply, True
        try:
            with torch._C.DisableTorchFunctionSubclass():
                output = self.apply(layer, anonymous(x), *args, **kwargs)
        finally:
            delta.inside_apply = outer
        if not delta.active:
            return output
        return delta.add_to(output, x)


def delta_of(layer: nn.Module) -> LoRADelta | None:
    """The contribution attached to ``layer``, or None where it is not wrapped."""
    return layer.__dict__.get(_DELTA)


def attach(layer: nn.Module, delta: LoRADelta) -> None:
    """Ties ``delta`` to ``layer`` (outside `nn.Module`'s registry: it has no parameters of the model)."""
    layer.__dict__[_DELTA] = delta


def intercept(layer: nn.Module) -> bool:
    """Makes sure that the layer's present quant method is intercepted; it may have been swapped since.

    Returns:
        Whether the layer has a quant method at all.
    """
    quant_method = getattr(layer, "quant_method", None)
    if quant_method is None:
        return False
    if not isinstance(quant_method.apply, InterceptedApply):
        quant_method.apply = InterceptedApply(quant_method.apply)
    return True
