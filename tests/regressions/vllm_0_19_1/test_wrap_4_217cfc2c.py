"""WRAP-4 MUST With no adapter active the wrapped layer is transparent: bit-identical
output, same return type, extra arguments of `forward` passed on, parameters the same
storages, attributes that kernels read still reachable.

Seen, hidden-attribute: layer.quant_method is not reachable: 'ReplicatedLinearWithLoRA'
object has no attribute 'quant_method'
Found on vllm 0.19.1, torch 2.10.0+cu128. What does not matter: dtype, values, regime,
family, bias, input size, number of tokens, scaling, max_loras, sharding of the
adapters, disable_tp. Proof: passes on reference (lora_compat 0.1.0) in a fresh process;
the file for plain vLLM has what is known of vllm 0.19.1.
Case 217cfc2cf63e
"""

from typing import Any

import torch

from lora_compat import LayerAdapter, LoRAConfig, SubAdapter, TokenBatch, wrap_layer
from lora_compat.layers import ReplicatedLinear


def test_wrap_4_hidden_attribute() -> None:
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    names = [
        "quant_method",
        "input_size",
        "output_size",
        "tp_size",
        "tp_rank",
        "output_partition_sizes",
    ]
    known = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    lora: Any = wrap_layer(layer, LoRAConfig(max_loras=1, max_lora_rank=1))
    part = SubAdapter(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    lora.set_lora(0, LayerAdapter((part,), scaling=1.0))
    lora.set_batch(TokenBatch.of((-1,)))
    reached = {name: getattr(lora, name) for name in known}
    assert reached == known
    outputs = lora(torch.tensor([[-1.0]]))[0].tolist()
    assert outputs == [[-1.0]]
