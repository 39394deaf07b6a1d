"""MATH-3 MUST Tokens without an adapter are bit-identical to the base layer.

Seen, adapter-leak: tokens [0]: out0[0, 0]=-2, but should be -1, to the bit
Found on vllm 0.32.0, torch 2.13.0+cu130. What does not matter: dtype, values, regime,
family, bias, inheritance depth, mixins, constructor, weight loader, input size, number
of tokens, scaling, sharding of the adapters, disable_tp. Proof: fails on vllm 0.32.0 in
a fresh process, for this reason; the same case passes on reference (lora_compat 0.1.0)
in a fresh process.
Case 7b6c6c1144c9
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


def test_math_3_adapter_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(world_size=1, rank_in_group=0)
    monkeypatch.setattr(parallel_state, "_TP", alone)
    layer: Any = ReplicatedLinear(input_size=1, output_size=1, bias=False)
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    config = LoRAConfig(max_loras=1, max_lora_rank=1, lora_dtype=torch.float32)
    lora: Any = from_layer(layer, 1, config, [], None)
    lora.set_lora(0, torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    punica = get_punica_wrapper(8, 8, "cpu", lora_config=config)
    lora.set_mapping(punica)
    punica.update_metadata(LoRAMapping((0,), (0,), is_prefill=False), [1], 2, 32)
    outputs = lora(torch.tensor([[-1.0]]))[0].tolist()
    assert outputs == [[-1.0]]
