"""LIFE-1 MUST After any sequence of add, activate, deactivate, remove, pin, evict and
re-map, every token's output is that of a fresh engine holding just the adapters that
are active.

Seen, stale-slot: call 9, run(0): rank 0: layers.0.mlp.gate: out0[0, 0]=-2, but should
be -5 (allowed error 0); adapters [2] (0: none)
Found on vllm 0.20.0, torch 2.11.0+cu130. Proof: passes on reference (lora_compat 0.1.0)
in a fresh process; the file for plain vLLM has what is known of vllm 0.20.0.
Case 1dc87df9af4f
"""

from typing import Any

import torch

from lora_compat import Adapter, LoRAConfig, LoRAManager, ModuleAdapter
from lora_compat.layers import ReplicatedLinear

ADAPTERS = {  # by id: LoRA A, LoRA B and scaling of each module
    1: {"gate": (torch.tensor([[1.0]]), torch.tensor([[1.0]]), 1.0)},
    2: {"gate": (torch.tensor([[1.0]]), torch.tensor([[1.0]]), 4.0)},
}


def adapter(number: int) -> Adapter:
    modules = {}
    for name, (a, b, scaling) in ADAPTERS[number].items():
        modules[name] = ModuleAdapter(a.clone(), b.clone(), scaling)
    return Adapter(modules)


def test_life_1_stale_slot() -> None:
    model: Any = torch.nn.Module()
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    model.gate = layer
    config = LoRAConfig(max_loras=2, max_lora_rank=1)
    manager = LoRAManager(model, config)
    manager.add(2, adapter(2))
    manager.activate(2)
    manager.map_tokens([2])
    manager.deactivate(2)
    manager.add(1, adapter(1))
    manager.activate(1)
    manager.add(2, adapter(2))
    manager.activate(2)
    manager.map_tokens([2])
    outputs = model.gate(torch.tensor([[-1.0]]))[0].tolist()
    assert outputs == [[-5.0]]
