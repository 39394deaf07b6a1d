"""MATH-7 MUST 2-D, 3-D, non-contiguous, one-token and zero-token inputs are all served;
the input and the adapter's tensors are not written to.

Seen, raised: rank 0 of 1: RuntimeError: The expanded size of the tensor (1) must match
the existing size (0) at non-singleton dimension 0. Target sizes: [1, 1]. Tensor sizes:
[0, 1]
Found on vllm 0.32.0, torch 2.13.0+cu130. What does not matter: dtype, values, regime,
family, bias, inheritance depth, mixins, constructor, weight loader, input size,
scaling, max_loras, sharding of the adapters, disable_tp. Proof: passes on reference
(lora_compat 0.1.0) in a fresh process; the file for plain vLLM has what is known of
vllm 0.32.0.
Case 04c87f61dde4
"""

from typing import Any

import torch

from lora_compat import LayerAdapter, LoRAConfig, SubAdapter, TokenBatch, wrap_layer
from lora_compat.layers import ReplicatedLinear


def test_math_7_raised() -> None:
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    lora: Any = wrap_layer(layer, LoRAConfig(max_loras=1, max_lora_rank=1))
    part = SubAdapter(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    lora.set_lora(0, LayerAdapter((part,), scaling=1.0))
    lora.set_batch(TokenBatch.of(()))
    x = torch.empty((0, 1))
    x = x[None, :, None]
    outputs = lora(x)[0].flatten(0, -2).tolist()
    assert outputs == []
