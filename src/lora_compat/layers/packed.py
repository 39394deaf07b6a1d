"""The two packed families: several column-parallel outputs in one weight."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lora_compat.layers.base import ShardId, copy_into, divide
from lora_compat.layers.column import ColumnParallelLinear
from lora_compat.parallel import current_group
from lora_compat.quantization import QuantConfig


class MergedColumnParallelLinear(ColumnParallelLinear):
    """Several column-parallel weights side by side; every one is cut on its own."""

    def __init__(
        self,
        input_size: int,
        output_sizes: list[int],
        bias: bool = True,
        gather_output: bool = False,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        self.output_sizes = list(output_sizes)
        super().__init__(
            input_size, sum(output_sizes), bias, gather_output, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip

    def _partition_sizes(self) -> list[int]:
        return [divide(size, self.tp_size, f"output_sizes[{i}]") for i, size in enumerate(self.output_sizes)]

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor, shard_id: ShardId = None) -> None:
        if shard_id is None:
            for index, part in enumerate(torch.split(loaded_weight, self.output_sizes)):
                self.weight_loader(param, part, index)
            return
        index = cast(int, shard_id)
        start, rows = sum(self.output_partition_sizes[:index]), self.output_partition_sizes[index]
        copy_into(param.data.narrow(0, start, rows), loaded_weight.narrow(0, self.tp_rank * rows, rows))


class QKVParallelLinear(ColumnParallelLinear):
    """Query, key and value projections; with fewer KV heads than ranks each KV head lives on several ranks."""

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        total_num_heads: int,
        total_num_kv_heads: int | None = None,
        bias: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        tp_size = 1 if disable_tp else current_group().size
        self.hidden_size = hidden_size
        self.head_size = self.v_head_size = head_size
        self.total_num_heads = total_num_heads
        self.total_num_kv_heads = total_num_kv_heads or total_num_heads
        self.num_heads = divide(total_num_heads, tp_size, "total_num_heads")
        if tp_size >= self.total_num_kv_heads:
            self.num_kv_heads = 1
            self.num_kv_head_replicas = divide(tp_size, self.total_num_kv_heads, "replicas of a KV head: ranks")
        else:
            self.num_kv_heads = divide(self.total_num_kv_heads, tp_size, "total_num_kv_heads")
            self.num_kv_head_replicas = 1
        self.output_sizes = [
            heads * tp_size * head_size for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        ]
        super().__init__(
            hidden_size, sum(self.output_sizes), bias, False, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip

    def _partition_sizes(self) -> list[int]:
        return [size // self.tp_size for size in self.output_sizes]

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor, shard_id: ShardId = None) -> None:
        if shard_id is None:
            kv_rows = self.total_num_kv_heads * self.head_size
            parts = torch.split(loaded_weight, [self.total_num_heads * self.head_size, kv_rows, kv_rows])
            for name, part in zip("qkv", parts, strict=True):
                self.weight_loader(param, part, name)
            return
        index = "qkv".index(cast(str, shard_id))
        start, rows = sum(self.output_partition_sizes[:index]), self.output_partition_sizes[index]
        rank = self.tp_rank if index == 0 else self.tp_rank // self.num_kv_head_replicas
        copy_into(param.data.narrow(0, start, rows), loaded_weight.narrow(0, rank * rows, rows))
