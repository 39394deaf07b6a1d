"""MATH-1 MUST One adapter, any family, TP size, sharding mode and rank ≤ max: output =
merged weights.

Seen, delta-incomplete: rank 0: out0[0, 2]=-4, but should be -2 (allowed error 0)
Found on vllm 0.33.0, torch 2.14.0+cu130. What does not matter: dtype, values, bias,
inheritance depth, mixins, constructor, weight loader, input size, number of tokens,
scaling, max_loras. Proof: passes on reference (lora_compat 0.1.0) in a fresh process;
the file for plain vLLM has what is known of vllm 0.33.0.
Case d12d5c8ee470
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
            input_size=1, output_sizes=[4, 2], bias=False
        )
    weight_rows = [[[1.0], [0.0], [-3.0], [-1.0]], [[-2.0], [-1.0]]]
    for shard, weight_part in zip(range(2), weight_rows, strict=True):
        layer.weight.weight_loader(layer.weight, torch.tensor(weight_part), shard)
    layer.quant_method.process_weights_after_loading(layer)
    lora: Any = wrap_layer(layer, LoRAConfig(max_loras=1, max_lora_rank=1))
    part = SubAdapter(
        torch.tensor([[1.0]]), torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0], [1.0]])
    )
    lora.set_lora(0, LayerAdapter((part,), scaling=1.0))
    lora.set_batch(TokenBatch.of((0,)))
    return lora(torch.tensor([[2.0]]))[0].tolist()


def test_math_1_delta_incomplete() -> None:
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(on_rank, range(2)))
    assert outputs == [[[4.0, 2.0, -2.0]], [[-4.0, 0.0, 0.0]]]
