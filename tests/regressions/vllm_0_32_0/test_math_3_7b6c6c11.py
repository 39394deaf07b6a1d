"""MATH-3 MUST Tokens without an adapter are bit-identical to the base layer.

Seen, adapter-leak: tokens [0]: out0[0, 0]=-2, but should be -1, to the bit
Found on vllm 0.32.0, torch 2.13.0+cu130. What does not matter: dtype, values, regime,
family, bias, inheritance depth, mixins, constructor, weight loader, input size, number
of tokens, scaling, sharding of the adapters, disable_tp. Proof: passes on reference
(lora_compat 0.1.0) in a fresh process; the file for plain vLLM has what is known of
vllm 0.32.0.
Case 7b6c6c1144c9
"""

from typing import Any

import torch

from lora_compat import LayerAdapter, LoRAConfig, SubAdapter, TokenBatch, wrap_layer
from lora_compat.layers import ReplicatedLinear


def test_math_3_adapter_leak() -> None:
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    lora: Any = wrap_layer(layer, LoRAConfig(max_loras=1, max_lora_rank=1))
    part = SubAdapter(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    lora.set_lora(0, LayerAdapter((part,), scaling=1.0))
    lora.set_batch(TokenBatch.of((-1,)))
    outputs = lora(torch.tensor([[-1.0]]))[0].tolist()
    assert outputs == [[-1.0]]
