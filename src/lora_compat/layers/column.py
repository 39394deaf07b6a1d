"""The column-parallel family."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora_compat.layers.base import LinearBase, Output, ShardId, copy_into, divide
from lora_compat.quantization import QuantConfig


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
