"""More than one of SGLang's LoRA layer classes would take a QKV layer: the order in which a table is written decides.

Clause WRAP-3. Release: 0.5.23.
"""

from types import FunctionType

import torch
from served import filled, report
from sglang.srt.layers import linear
from sglang.srt.lora.backend.torch_backend import TorchNativeLoRABackend
from sglang.srt.lora.layers import get_lora_layer

layer = filled(linear.QKVParallelLinear(2, 1, 1, 1, bias=False))
backend = TorchNativeLoRABackend(2, torch.device("cpu"))


class Nothing:
    """No layer is an instance of it."""


def takes(row):
    """The LoRA layer class that the table gives where it has this row alone, if any."""
    names = get_lora_layer.__globals__ | dict.fromkeys(rows - {row}, Nothing)
    alone = FunctionType(get_lora_layer.__code__, names)
    alone.__kwdefaults__ = get_lora_layer.__kwdefaults__
    try:
        return type(alone(layer, backend)).__name__
    except Exception as error:
        if not str(error).startswith("No corresponding LoRA layer"):
            raise
        return None


known = get_lora_layer.__code__.co_names
rows = {name for name in known if f"{name}WithLoRA" in known}
assert "QKVParallelLinear" in rows
found = sorted(filter(None, map(takes, rows)))
report(found[:1], found)
