"""MATH-1 MUST One adapter, any family, TP size, sharding mode and rank ≤ max: output =
merged weights.

Seen, raised: rank 0 of 2: RuntimeError: einsum(): subscript i has size 8 for operand 1
which does not broadcast with previously seen size 16
Found on vllm 0.20.0, torch 2.11.0+cu130. What does not matter: dtype, values, regime,
bias, input size, number of tokens, rank of the adapter, scaling, max_loras,
max_lora_rank, disable_tp. Proof: passes on reference (lora_compat 0.1.0) in a fresh
process; the file for plain vLLM has what is known of vllm 0.20.0.
Case 01fd5aac3b21
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from lora_compat import (
    LayerAdapter,
    LoRAConfig,
    SubAdapter,
    TokenBatch,
    tensor_parallel,
    wrap_layer,
)
from lora_compat.layers import MergedColumnParallelLinear


class Ranks(threading.local):  # stands in for the group; every rank is a thread
    size, rank, parts = 2, 0, [torch.empty(0)] * 2
    barrier = threading.Barrier(2, timeout=10)

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
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
            input_size=1, output_sizes=[2, 2], bias=False
        )
    weight_rows = [[[1.0], [0.0]], [[-3.0], [-1.0]]]
    for shard, weight_part in zip(range(2), weight_rows, strict=True):
        layer.weight.weight_loader(layer.weight, torch.tensor(weight_part), shard)
    layer.quant_method.process_weights_after_loading(layer)
    lora: Any = wrap_layer(layer, LoRAConfig(max_loras=1, max_lora_rank=8))
    part_0 = SubAdapter(torch.tensor([[1.0]]), torch.tensor([[1.0], [1.0]]))
    part_1 = SubAdapter(torch.tensor([[1.0]]), torch.tensor([[1.0], [1.0]]))
    lora.set_lora(0, LayerAdapter((part_0, part_1), scaling=1.0))
    lora.set_batch(TokenBatch.of((0,)))
    return lora(torch.tensor([[-1.0]]))[0].tolist()


def test_math_1_raised() -> None:
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(on_rank, range(2)))
    assert outputs == [[[-2.0, 2.0]], [[-1.0, 0.0]]]
