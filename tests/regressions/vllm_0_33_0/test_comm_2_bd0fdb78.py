"""COMM-2 MUST A layer with `disable_tp`, or of TP size 1, issues none.

Seen, raised: rank 0 of 2: RuntimeError: einsum(): subscript i has size 8 for operand 1
which does not broadcast with previously seen size 16
Found on vllm 0.33.0, torch 2.14.0+cu130. What does not matter: dtype, values, regime,
bias, input size, number of tokens, rank of the adapter, scaling, max_loras,
max_lora_rank. Proof: passes on reference (lora_compat 0.1.0) in a fresh process; the
file for plain vLLM has what is known of vllm 0.33.0.
Case bd0fdb781d02
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
from lora_compat.layers import ColumnParallelLinear


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
        layer: Any = ColumnParallelLinear(
            input_size=1, output_size=1, bias=False, disable_tp=True
        )
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    config = LoRAConfig(max_loras=1, max_lora_rank=8, fully_sharded_loras=True)
    lora: Any = wrap_layer(layer, config)
    part = SubAdapter(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    lora.set_lora(0, LayerAdapter((part,), scaling=1.0))
    lora.set_batch(TokenBatch.of((0,)))
    inputs = [[[-1.0]], [[-2.0]]]  # of each rank
    lora(torch.tensor(inputs[rank]))
    return RANKS.log[rank]


def test_comm_2_raised() -> None:
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(on_rank, range(2)))
    assert outputs[0] == []
