"""LIFE-2 MUST Capacity, LRU order and pinning hold; a full house is an error that says
so, and loses nothing.

Seen, state-lost: call 3, activate(2): registered [1], active [], but should be
registered [1], active [1]
Found on vllm 0.33.0, torch 2.14.0+cu130. Proof: passes on reference (lora_compat 0.1.0)
in a fresh process; the file for plain vLLM has what is known of vllm 0.33.0.
Case 2f61de1390f4
"""

from typing import Any

import pytest
import torch

from lora_compat import Adapter, LoRAConfig, LoRAManager, ModuleAdapter
from lora_compat.layers import ReplicatedLinear

ADAPTERS = {  # by id: LoRA A, LoRA B and scaling of each module
    1: {"gate": (torch.tensor([[1.0]]), torch.tensor([[1.0]]), 1.0)},
}


def adapter(number: int) -> Adapter:
    modules = {}
    for name, (a, b, scaling) in ADAPTERS[number].items():
        modules[name] = ModuleAdapter(a.clone(), b.clone(), scaling)
    return Adapter(modules)


def test_life_2_state_lost() -> None:
    model: Any = torch.nn.Module()
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    model.gate = layer
    config = LoRAConfig(max_loras=1, max_lora_rank=1)
    manager = LoRAManager(model, config)
    manager.add(1, adapter(1))
    manager.activate(1)
    with pytest.raises(Exception):
        manager.activate(2)
    assert set(manager.registered) == {1}
    assert set(manager.active) == {1}
