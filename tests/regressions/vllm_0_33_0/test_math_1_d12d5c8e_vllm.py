"""MATH-1 MUST One adapter, any family, TP size, sharding mode and rank ≤ max: output =
merged weights.

Seen, delta-incomplete: rank 0: out0[0, 2]=-4, but should be -2 (allowed error 0)
Found on vllm 0.33.0, torch 2.14.0+cu130. What does not matter: dtype, values, bias,
inheritance depth, mixins, constructor, weight loader, input size, number of tokens,
scaling, max_loras. Proof: fails on vllm 0.33.0 in a fresh process, for this reason; the
same case passes on reference (lora_compat 0.1.0) in a fresh process.
Case d12d5c8ee470
"""

# ruff: noqa: E402

import threading
from concurrent.futures import ThreadPoolExecutor
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
from vllm.model_executor.layers.linear import MergedColumnParallelLinear


class Ranks(threading.local):  # stands in for the group; every rank is a thread
    world_size, rank_in_group, parts = 2, 0, [torch.empty(0)] * 2
    barrier = threading.Barrier(2, timeout=10)

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
        self.parts[self.rank_in_group] = tensor.clone()
        self.barrier.wait()
        gathered = torch.cat(self.parts, dim)
        self.barrier.wait()
        return gathered


RANKS = Ranks()


def on_rank(rank: int) -> Any:
    RANKS.rank_in_group = rank
    layer: Any = MergedColumnParallelLinear(
        input_size=1, output_sizes=[4, 2], bias=False
    )
    weight_rows = [[[1.0], [0.0], [-3.0], [-1.0]], [[-2.0], [-1.0]]]
    for shard, weight_part in zip(range(2), weight_rows, strict=True):
        layer.weight.weight_loader(layer.weight, torch.tensor(weight_part), shard)
    layer.quant_method.process_weights_after_loading(layer)
    config = LoRAConfig(max_loras=1, max_lora_rank=1, lora_dtype=torch.float32)
    lora: Any = from_layer(layer, 1, config, ["part_0"], None)
    lora.set_lora(
        0,
        torch.tensor([[1.0]]),
        torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0], [1.0]]),
    )
    punica = get_punica_wrapper(8, 8, "cpu", lora_config=config)
    lora.set_mapping(punica)
    punica.update_metadata(LoRAMapping((1,), (1,), is_prefill=False), [1], 2, 32)
    return lora(torch.tensor([[2.0]]))[0].tolist()


def test_math_1_delta_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_state, "_TP", RANKS)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(on_rank, range(2)))
    assert outputs == [[[4.0, 2.0, -2.0]], [[-4.0, 0.0, 0.0]]]
