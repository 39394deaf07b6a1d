"""WRAP-1 MUST A subclass of a supported linear family, at any inheritance depth, with
mixins, created dynamically or registered out of tree, that does not change
`forward`, is replaced by a LoRA layer of that family.

Seen, not-wrapped: a replicated layer was left unwrapped, a subclass
Found on vllm 0.19.1, torch 2.10.0+cu128. What does not matter: dtype, values, regime,
family, bias, inheritance depth, forward, mixins, constructor, weight loader, input
size, number of tokens, scaling, max_loras, sharding of the adapters, disable_tp. Proof:
passes on reference (lora_compat 0.1.0) in a fresh process; the file for plain vLLM has
what is known of vllm 0.19.1.
Case 5eac80050a2e
"""

from typing import Any

import torch

from lora_compat import LoRAConfig, LoRALinear, wrap_layer
from lora_compat.layers import ReplicatedLinear


class DrawnLinear(ReplicatedLinear):
    pass


def test_wrap_1_not_wrapped() -> None:
    layer: Any = DrawnLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    lora: Any = wrap_layer(layer, LoRAConfig(max_loras=1, max_lora_rank=1))
    assert isinstance(lora, LoRALinear)
