"""COMM-2 MUST A layer with `disable_tp`, or of TP size 1, issues none.

Seen, raised: rank 0 of 2: RuntimeError: einsum(): subscript i has size 8 for operand 1
which does not broadcast with previously seen size 16
Found on vllm 0.33.0, torch 2.14.0+cu130. What does not matter: dtype, values, regime,
bias, input size, number of tokens, rank of the adapter, scaling, max_loras,
max_lora_rank. Proof: fails on vllm 0.33.0 in a fresh process, for this reason; the same
case passes on reference (lora_compat 0.1.0) in a fresh process.
Case bd0fdb781d02
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
from vllm.model_executor.layers.linear import ColumnParallelLinear


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
    layer: Any = ColumnParallelLinear(
        input_size=1, output_size=1, bias=False, disable_tp=True
    )
    layer.weight.weight_loader(layer.weight, torch.tensor([[1.0]]))
    layer.quant_method.process_weights_after_loading(layer)
    config = LoRAConfig(
        max_loras=1, max_lora_rank=8, fully_sharded_loras=True, lora_dtype=torch.float32
    )
    lora: Any = from_layer(layer, 1, config, [], None)
    lora.set_lora(0, torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    punica = get_punica_wrapper(8, 8, "cpu", lora_config=config)
    lora.set_mapping(punica)
    punica.update_metadata(LoRAMapping((1,), (1,), is_prefill=False), [1], 2, 32)
    inputs = [[[-1.0]], [[-2.0]]]  # of each rank
    lora(torch.tensor(inputs[rank]))
    return RANKS.log[rank]


def test_comm_2_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_state, "_TP", RANKS)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(on_rank, range(2)))
    assert outputs[0] == []
