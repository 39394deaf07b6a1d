"""Torch-only linear layers of the five families, with the constructor and attribute names vLLM's have.

A subclass written against these runs against vLLM's by changing its import. Weights are checkpoint tensors
(``[out, in]``) loaded through each layer's ``weight_loader``, which takes the part its rank owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lora_compat.families import Family, registry
from lora_compat.parallel import SINGLE, TensorParallelGroup, current_group
from lora_compat.quantization import QuantConfig, QuantMethod, UnquantizedLinearMethod, set_loading

Output = Tensor | tuple[Tensor, nn.Parameter | None]
ShardId = int | str | None


def divide(total: int, parts: int, what: str) -> int:
    """``total / parts``, which must be whole.

    Raises:
        ValueError: ``total`` is not a multiple of ``parts``; names ``what`` it counts.
    """
    if total % parts:
        raise ValueError(f"{what}={total} is not divisible by the tensor-parallel size {parts}")
    return total // parts


class LinearBase(nn.Module):
    """What the five families share: sizes, the group, the quant method, and the bias."""

    quant_method: QuantMethod
    bias: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        output_size: int,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size
        self.skip_bias_add = skip_bias_add
        self.params_dtype = params_dtype or torch.get_default_dtype()
        self.quant_config = quant_config
        self.prefix = prefix
        self.return_bias = return_bias
        self.disable_tp = disable_tp
        self.tp_group: TensorParallelGroup = SINGLE if disable_tp else current_group()
        self.tp_rank = self.tp_group.rank
        self.tp_size = self.tp_group.size
        self.quant_method = quant_config.get_quant_method(self, prefix) if quant_config else UnquantizedLinearMethod()

    def _create_parameters(self, input_size: int, output_sizes: Sequence[int], bias: bool, *, cut: bool) -> None:
        self.input_size_per_partition = input_size
        self.output_partition_sizes = list(output_sizes)
        self.output_size_per_partition = sum(output_sizes)
        self.quant_method.create_weights(self, input_size, output_sizes, self.params_dtype, self.weight_loader)
        if bias:
            self.bias = nn.Parameter(
                torch.zeros(self.output_size_per_partition, dtype=self.params_dtype), requires_grad=False
            )
            set_loading(self.bias, self.weight_loader, output_dim=0 if cut else None, input_dim=None)
        else:
            self.register_parameter("bias", None)

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor, shard_id: ShardId = None) -> None:
        """Copies this rank's part of the checkpoint tensor ``loaded_weight`` into ``param``."""
        raise NotImplementedError

    def _result(self, output: Tensor) -> Output:
        if not self.return_bias:
            return output
        return output, (self.bias if self.skip_bias_add else None)


class ReplicatedLinear(LinearBase):
    """Every rank holds the whole weight."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        super().__init__(
            input_size, output_size, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip
        self._create_parameters(input_size, [output_size], bias, cut=False)

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor, shard_id: ShardId = None) -> None:
        copy_into(param.data, loaded_weight)

    def forward(self, input_: Tensor) -> Output:
        bias = None if self.skip_bias_add else self.bias
        return self._result(self.quant_method.apply(self, input_, bias))


class ColumnParallelLinear(LinearBase):
    """Each rank holds an equal part of the output rows."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
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
        super().__init__(
            input_size, output_size, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip
        self.gather_output = gather_output
        self._create_parameters(input_size, self._partition_sizes(), bias, cut=True)

    def _partition_sizes(self) -> list[int]:
        return [divide(self.output_size, self.tp_size, "output_size")]

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor, shard_id: ShardId = None) -> None:
        rows = param.data.shape[0]
        copy_into(param.data, loaded_weight.narrow(0, self.tp_rank * rows, rows))

    def forward(self, input_: Tensor) -> Output:
        bias = None if self.skip_bias_add else self.bias
        output = self.quant_method.apply(self, input_, bias)
        if self.gather_output and self.tp_size > 1:
            output = self.tp_group.all_gather(output, dim=-1)
        return self._result(output)


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


class RowParallelLinear(LinearBase):
    """Each rank holds an equal part of the input columns; the partial products are summed over the ranks."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        input_is_parallel: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        reduce_results: bool = True,
        quant_config: QuantConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        super().__init__(
            input_size, output_size, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip
        if bias and not reduce_results and not skip_bias_add:
            raise ValueError("a bias cannot be added to partial sums: set reduce_results, or skip_bias_add")
        self.input_is_parallel = input_is_parallel
        self.reduce_results = reduce_results
        self._create_parameters(divide(input_size, self.tp_size, "input_size"), [output_size], bias, cut=False)

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor, shard_id: ShardId = None) -> None:
        if getattr(param, "input_dim", None) is not None:
            columns = param.data.shape[1]
            loaded_weight = loaded_weight.narrow(1, self.tp_rank * columns, columns)
        copy_into(param.data, loaded_weight)

    def forward(self, input_: Tensor) -> Output:
        if not self.input_is_parallel and self.tp_size > 1:
            input_ = input_.chunk(self.tp_size, dim=-1)[self.tp_rank].contiguous()
        bias = self.bias if self.tp_rank == 0 and not self.skip_bias_add else None
        output = self.quant_method.apply(self, input_, bias)
        if self.reduce_results and self.tp_size > 1:
            output = self.tp_group.all_reduce(output)
        return self._result(output)


def copy_into(target: Tensor, source: Tensor) -> None:
    """Copies, refusing a broadcast: a checkpoint tensor of the wrong shape is an error.

    Raises:
        ValueError: the shapes differ.
    """
    if target.shape != source.shape:
        raise ValueError(f"the parameter takes {tuple(target.shape)}, the checkpoint part is {tuple(source.shape)}")
    target.copy_(source)


def _group_of(layer: nn.Module) -> TensorParallelGroup:
    return cast(LinearBase, layer).tp_group


for _base, _family in (
    (ReplicatedLinear, Family.REPLICATED),
    (ColumnParallelLinear, Family.COLUMN),
    (MergedColumnParallelLinear, Family.MERGED_COLUMN),
    (QKVParallelLinear, Family.QKV),
    (RowParallelLinear, Family.ROW),
):
    registry.register(_base, _family, _group_of)
