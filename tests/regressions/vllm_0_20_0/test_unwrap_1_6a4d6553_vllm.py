"""UNWRAP-1 MUST From any nesting depth n ≥ 0 the quant method found is the base layer's
own object.

Seen, raised: rank 0 of 1: AttributeError: 'ReplicatedLinearWithLoRA' object has no
attribute 'quant_method'
Found on vllm 0.20.0, torch 2.11.0+cu130. What does not matter: dtype, values, regime,
family, bias, inheritance depth, mixins, constructor, weight loader, input size, number
of tokens, scaling, max_loras, sharding of the adapters, disable_tp. Proof: fails on
vllm 0.20.0 in a fresh process, for this reason; the same case passes on reference
(lora_compat 0.1.0) in a fresh process.
Case 6a4d65533c9b
"""

# ruff: noqa: E402

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vars(vllm.platforms)["_current_platform"] = CpuPlatform()  # before the rest of vLLM

from vllm.config.lora import LoRAConfig
from vllm.distributed import parallel_state
from vllm.lora.utils import from_layer
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    get_and_maybe_dequant_weights,
)


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


def test_unwrap_1_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(world_size=1, rank_in_group=0)
    monkeypatch.setattr(parallel_state, "_TP", alone)
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    config = LoRAConfig(max_loras=1, max_lora_rank=1, lora_dtype=torch.float32)
    lora: Any = from_layer(layer, 1, config, [], None)
    outer: Any = ForwardingWrapper(lora)
    outputs = get_and_maybe_dequant_weights(outer, torch.float32).tolist()
    assert outputs == layer.weight.tolist()
