"""WRAP-1 MUST A subclass of a supported linear family, at any inheritance depth, with
mixins, created dynamically or registered out of tree, that does not change
`forward`, is replaced by a LoRA layer of that family.

Seen, not-wrapped: a replicated layer was left unwrapped, a subclass
Found on vllm 0.19.1, torch 2.10.0+cu128. What does not matter: dtype, values, regime,
family, bias, inheritance depth, forward, mixins, constructor, weight loader, input
size, number of tokens, scaling, max_loras, sharding of the adapters, disable_tp. Proof:
fails on vllm 0.19.1 in a fresh process, for this reason; the same case passes on
reference (lora_compat 0.1.0) in a fresh process.
Case 5eac80050a2e
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
from vllm.lora.layers import BaseLayerWithLoRA
from vllm.lora.utils import from_layer
from vllm.model_executor.layers.linear import ReplicatedLinear


class DrawnLinear(ReplicatedLinear):
    pass


def test_wrap_1_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(world_size=1, rank_in_group=0)
    monkeypatch.setattr(parallel_state, "_TP", alone)
    layer: Any = DrawnLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    config = LoRAConfig(max_loras=1, max_lora_rank=1, lora_dtype=torch.float32)
    lora: Any = from_layer(layer, 1, config, [], None)
    assert isinstance(lora, BaseLayerWithLoRA)
