"""LIFE-1 MUST After any sequence of add, activate, deactivate, remove, pin, evict and
re-map, every token's output is that of a fresh engine holding just the adapters that
are active.

Seen, stale-slot: call 9, run(0): rank 0: layers.0.mlp.gate: out0[0, 0]=-2, but should
be -5 (allowed error 0); adapters [2] (0: none)
Found on vllm 0.20.0, torch 2.11.0+cu130. Proof: fails on vllm 0.20.0 in a fresh
process, for this reason; the same case passes on reference (lora_compat 0.1.0) in a
fresh process.
Case 1dc87df9af4f
"""

# ruff: noqa: E402

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vars(vllm.platforms)["_current_platform"] = CpuPlatform()  # before the rest of vLLM

from vllm.config import VllmConfig
from vllm.config.lora import LoRAConfig
from vllm.distributed import parallel_state
from vllm.lora.layers import LoRAMapping
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.model_manager import LRUCacheLoRAModelManager
from vllm.model_executor.layers.linear import ReplicatedLinear

ADAPTERS = {  # by id: LoRA A, LoRA B and scaling of each module
    1: {"gate": (torch.tensor([[1.0]]), torch.tensor([[1.0]]), 1.0)},
    2: {"gate": (torch.tensor([[1.0]]), torch.tensor([[1.0]]), 4.0)},
}


class Model(torch.nn.Module):
    packed_modules_mapping: dict[str, list[str]] = {}
    config = SimpleNamespace(architectures=["Model"])
    embedding_modules: dict[str, str] = {}
    supports_lora, is_3d_moe_weight, is_non_gated_moe = True, False, False


def adapter(number: int) -> LoRAModel:
    weights = {}
    for name, (a, b, scaling) in ADAPTERS[number].items():
        rank, tensors = len(a), (a.clone(), b.clone())
        weights[name] = LoRALayerWeights(name, rank, rank, *tensors, scaling)
    return LoRAModel(number, 1, weights)


def test_life_1_stale_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(world_size=1, rank_in_group=0)
    monkeypatch.setattr(parallel_state, "_TP", alone)
    model: Any = Model()
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    model.gate = layer
    config = LoRAConfig(max_loras=2, max_lora_rank=1, lora_dtype=torch.float32)
    manager = LRUCacheLoRAModelManager(
        model, 8, 8, 32, config, torch.device("cpu"), VllmConfig()
    )
    manager.add_adapter(adapter(2))
    manager.activate_adapter(2)
    manager.set_adapter_mapping(LoRAMapping((2,), (2,), is_prefill=False))
    manager.deactivate_adapter(2)
    manager.add_adapter(adapter(1))
    manager.activate_adapter(1)
    manager.add_adapter(adapter(2))
    manager.activate_adapter(2)
    manager.set_adapter_mapping(LoRAMapping((2,), (2,), is_prefill=False))
    outputs = model.gate(torch.tensor([[-1.0]]))[0].tolist()
    assert outputs == [[-5.0]]
