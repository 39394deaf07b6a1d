"""The replicated family."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora_compat.layers.base import LinearBase, Output, ShardId, copy_into
from lora_compat.quantization import QuantConfig


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
