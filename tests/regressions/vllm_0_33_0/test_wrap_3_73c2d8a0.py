"""WRAP-3 MUST Exactly one LoRA layer class claims a layer; the choice does not depend
on the order of a registry or on the hash seed.

Seen, order-dependent: claimed by MergedColumnParallelLinearWithLoRA,
MergedColumnParallelLinearWithShardedLoRA, but should be by one
Found on vllm 0.33.0, torch 2.14.0+cu130. What does not matter: dtype, values, regime,
bias, inheritance depth, mixins, constructor, weight loader, input size, number of
tokens, scaling, max_loras. Proof: passes on reference (lora_compat 0.1.0) in a fresh
process; the file for plain vLLM has what is known of vllm 0.33.0.
Case 73c2d8a0ff02
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from lora_compat import registry, tensor_parallel
from lora_compat.layers import MergedColumnParallelLinear


class Ranks(threading.local):  # stands in for the group; every rank is a thread
    size, rank, parts = 2, 0, [torch.empty(0)] * 2
    log: list[list[tuple[int, ...]]] = [[], []]  # shapes, by rank
    barrier = threading.Barrier(2, timeout=10)

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
        self.log[self.rank].append(tuple(tensor.shape))
        self.parts[self.rank] = tensor.clone()
        self.barrier.wait()
        gathered = torch.cat(self.parts, dim)
        self.barrier.wait()
        return gathered


RANKS = Ranks()


def on_rank(rank: int) -> Any:
    RANKS.rank = rank
    with tensor_parallel(RANKS):
        layer: Any = MergedColumnParallelLinear(
            input_size=1, output_sizes=[1, 1], bias=False, disable_tp=True
        )
    weight_rows = [[[1.0]], [[0.0]]]
    for shard, weight_part in zip(range(2), weight_rows, strict=True):
        layer.weight.weight_loader(layer.weight, torch.tensor(weight_part), shard)
    layer.quant_method.process_weights_after_loading(layer)
    claimants = set(registry.families_in_any_order(type(layer)))
    return len(claimants)


def test_wrap_3_order_dependent() -> None:
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(on_rank, range(2)))
    assert outputs == [1] * 2
