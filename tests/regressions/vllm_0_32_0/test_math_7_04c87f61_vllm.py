"""MATH-7 MUST 2-D, 3-D, non-contiguous, one-token and zero-token inputs are all served;
the input and the adapter's tensors are not written to.

Seen, raised: rank 0 of 1: RuntimeError: The expanded size of the tensor (1) must match
the existing size (0) at non-singleton dimension 0. Target sizes: [1, 1]. Tensor sizes:
[0, 1]
Found on vllm 0.32.0, torch 2.13.0+cu130. What does not matter: dtype, values, regime,
family, bias, inheritance depth, mixins, constructor, weight loader, input size,
scaling, max_loras, sharding of the adapters, disable_tp. Proof: fails on vllm 0.32.0 in
a fresh process, for this reason; the same case passes on reference (lora_compat 0.1.0)
in a fresh process.
Case 04c87f61dde4
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


def test_math_7_raised(monkeypatch: pytest.MonkeyPatch) -> None:
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
    punica.update_metadata(LoRAMapping((), (), is_prefill=False), [1], 2, 32)
    x = torch.empty((0, 1))
    x = x[None, :, None]
    outputs = lora(x)[0].flatten(0, -2).tolist()
    assert outputs == []
