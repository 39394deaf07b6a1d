"""UNWRAP-1 MUST From any nesting depth n ≥ 0 the quant method found is the base layer's
own object.

Seen, raised: rank 0 of 1: AttributeError: 'ReplicatedLinearWithLoRA' object has no
attribute 'quant_method'
Found on vllm 0.20.0, torch 2.11.0+cu130. What does not matter: dtype, values, regime,
family, bias, inheritance depth, mixins, constructor, weight loader, input size, number
of tokens, scaling, max_loras, sharding of the adapters, disable_tp. Proof: passes on
reference (lora_compat 0.1.0) in a fresh process; the file for plain vLLM has what is
known of vllm 0.20.0.
Case 6a4d65533c9b
"""

from typing import Any

import torch

from lora_compat import LoRAConfig, dense_weight, wrap_layer
from lora_compat.layers import ReplicatedLinear


class BareWrapper(torch.nn.Module):
    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer


class ForwardingWrapper(BareWrapper):
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


def test_unwrap_1_raised() -> None:
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    lora: Any = wrap_layer(layer, LoRAConfig(max_loras=1, max_lora_rank=1))
    outer: Any = ForwardingWrapper(lora)
    outputs = dense_weight(outer).tolist()
    assert outputs == layer.weight.tolist()
