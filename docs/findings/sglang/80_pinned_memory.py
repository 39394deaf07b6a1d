"""On a machine without a GPU no LoRA layer of a column can be made: it asks for pinned memory, of which there is none.

Clause WRAP-1, all of the torch backend, which needs no GPU. Release: 0.5.23. On a machine with a GPU it is absent.
"""

import torch
from served import attempt, report
from sglang.srt.layers import linear
from sglang.srt.lora.backend.torch_backend import TorchNativeLoRABackend
from sglang.srt.lora.layers import get_lora_layer


def wrapped():
    layer = linear.ColumnParallelLinear(2, 1, bias=False)
    return type(get_lora_layer(layer, TorchNativeLoRABackend(1, torch.device("cpu")))).__name__


with torch._C.DisableTorchFunction():  # and with it what `served` does about pinned memory
    report("ColumnParallelLinearWithLoRA", attempt(wrapped))
