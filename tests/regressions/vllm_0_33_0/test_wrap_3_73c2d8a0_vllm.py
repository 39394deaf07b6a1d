"""WRAP-3 MUST Exactly one LoRA layer class claims a layer; the choice does not depend
on the order of a registry or on the hash seed.

Seen, order-dependent: claimed by MergedColumnParallelLinearWithLoRA,
MergedColumnParallelLinearWithShardedLoRA, but should be by one
Found on vllm 0.33.0, torch 2.14.0+cu130. What does not matter: dtype, values, regime,
bias, inheritance depth, mixins, constructor, weight loader, input size, number of
tokens, scaling, max_loras. Proof: fails on vllm 0.33.0 in a fresh process, for this
reason; the same case passes on reference (lora_compat 0.1.0) in a fresh process.
Case 73c2d8a0ff02
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
from vllm.lora.utils import _all_lora_classes
from vllm.model_executor.layers.linear import MergedColumnParallelLinear


class Ranks(threading.local):  # stands in for the group; every rank is a thread
    world_size, rank_in_group, parts = 2, 0, [torch.empty(0)] * 2
    log: list[list[tuple[int, ...]]] = [[], []]  # shapes, by rank
    barrier = threading.Barrier(2, timeout=10)

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
        self.log[self.rank_in_group].append(tuple(tensor.shape))
        self.parts[self.rank_in_group] = tensor.clone()
        self.barrier.wait()
        gathered = torch.cat(self.parts, dim)
        self.barrier.wait()
        return gathered


RANKS = Ranks()


def on_rank(rank: int) -> Any:
    RANKS.rank_in_group = rank
    layer: Any = MergedColumnParallelLinear(
        input_size=1, output_sizes=[1, 1], bias=False, disable_tp=True
    )
    weight_rows = [[[1.0]], [[0.0]]]
    for shard, weight_part in zip(range(2), weight_rows, strict=True):
        layer.weight.weight_loader(layer.weight, torch.tensor(weight_part), shard)
    layer.quant_method.process_weights_after_loading(layer)
    config = LoRAConfig(
        max_loras=1, max_lora_rank=1, fully_sharded_loras=True, lora_dtype=torch.float32
    )
    asked = {
        "source_layer": layer,
        "lora_config": config,
        "packed_modules_list": ["part_0", "part_1"],
        "model_config": None,
    }
    claimants = [one for one in _all_lora_classes if one.can_replace_layer(**asked)]
    return len(claimants)


def test_wrap_3_order_dependent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_state, "_TP", RANKS)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(on_rank, range(2)))
    assert outputs == [1] * 2
