"""WRAP-4 MUST With no adapter active the wrapped layer is transparent: bit-identical
output, same return type, extra arguments of `forward` passed on, parameters the same
storages, attributes that kernels read still reachable.

Seen, hidden-attribute: layer.quant_method is not reachable: 'ReplicatedLinearWithLoRA'
object has no attribute 'quant_method'
Found on vllm 0.19.1, torch 2.10.0+cu128. What does not matter: dtype, values, regime,
family, bias, input size, number of tokens, scaling, max_loras, sharding of the
adapters, disable_tp. Proof: fails on vllm 0.19.1 in a fresh process, for this reason;
the same case passes on reference (lora_compat 0.1.0) in a fresh process.
Case 217cfc2cf63e
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
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper import get_punica_wrapper
from vllm.lora.utils import from_layer
from vllm.model_executor.layers.linear import ReplicatedLinear


def test_wrap_4_hidden_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(world_size=1, rank_in_group=0)
    monkeypatch.setattr(parallel_state, "_TP", alone)
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    names = [
        "quant_method",
        "input_size",
        "output_size",
        "tp_size",
        "tp_rank",
        "output_partition_sizes",
    ]
    known = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    config = LoRAConfig(max_loras=2, max_lora_rank=1, lora_dtype=torch.float32)
    lora: Any = from_layer(layer, 2, config, [], None)
    lora.set_lora(0, torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    punica = get_punica_wrapper(8, 8, "cpu", lora_config=config)
    lora.set_mapping(punica)
    punica.update_metadata(LoRAMapping((0,), (0,), is_prefill=False), [1, 2], 3, 32)
    reached = {name: getattr(lora, name) for name in known}
    assert reached == known
    outputs = lora(torch.tensor([[-1.0]]))[0].tolist()
    assert outputs == [[-1.0]]
