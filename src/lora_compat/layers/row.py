"""The row-parallel family."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora_compat.layers.base import LinearBase, Output, ShardId, copy_into, divide
from lora_compat.quantization import QuantConfig


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
