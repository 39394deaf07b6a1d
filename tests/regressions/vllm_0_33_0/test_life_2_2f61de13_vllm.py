"""LIFE-2 MUST Capacity, LRU order and pinning hold; a full house is an error that says
so, and loses nothing.

Seen, state-lost: call 3, activate(2): registered [1], active [], but should be
registered [1], active [1]
Found on vllm 0.33.0, torch 2.14.0+cu130. Proof: fails on vllm 0.33.0 in a fresh
process, for this reason; the same case passes on reference (lora_compat 0.1.0) in a
fresh process.
Case 2f61de1390f4
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
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.model_manager import LRUCacheLoRAModelManager
from vllm.model_executor.layers.linear import ReplicatedLinear

ADAPTERS = {  # by id: LoRA A, LoRA B and scaling of each module
    1: {"gate": (torch.tensor([[1.0]]), torch.tensor([[1.0]]), 1.0)},
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


def test_life_2_state_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(world_size=1, rank_in_group=0)
    monkeypatch.setattr(parallel_state, "_TP", alone)
    model: Any = Model()
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    model.gate = layer
    config = LoRAConfig(max_lora_rank=1, lora_dtype=torch.float32)
    manager = LRUCacheLoRAModelManager(
        model, 8, 8, 32, config, torch.device("cpu"), VllmConfig()
    )
    manager.add_adapter(adapter(1))
    manager.activate_adapter(1)
    manager.get_adapter(2)  # its worker does, and that is a use
    with pytest.raises(Exception):
        manager.activate_adapter(2)
    assert set(manager.list_adapters()) == {1}
    assert set(manager.lora_index_to_id) - {None} == {1}
