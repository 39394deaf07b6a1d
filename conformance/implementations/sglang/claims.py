"""Which of SGLang's LoRA layer classes would take a layer, each asked by itself."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from torch import nn

from conformance.implementations.protocol import Refused
from conformance.implementations.sglang.runtime import refusing, runtime, without_pinning

_SUFFIX = "WithLoRA"


class Nothing:
    """No layer is an instance of it."""


def claimants(layer: nn.Module, backend: Any) -> tuple[str, ...]:
    """The LoRA layer classes whose row in the table of `get_lora_layer` is about ``layer``, in no order.

    The function is asked once for each row, in a copy that knows the base classes of all other rows as `Nothing`.
    """
    asked = runtime().lora_layers.get_lora_layer
    names: tuple[str, ...] = asked.__code__.co_names
    rows = {name for name in names if f"{name}{_SUFFIX}" in names}
    found = []
    for row in rows:
        known = asked.__globals__ | dict.fromkeys(rows - {row}, Nothing)
        alone = FunctionType(asked.__code__, known, asked.__name__, asked.__defaults__)
        alone.__kwdefaults__ = asked.__kwdefaults__
        try:
            with refusing(), without_pinning():
                found.append(type(alone(layer, backend)).__name__)
        except Refused:
            continue
    return tuple(sorted(found))
