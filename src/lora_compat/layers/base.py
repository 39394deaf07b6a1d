"""What linear layers share: sizes, the group, the quant method, the bias, and how checkpoint tensors get in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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


def copy_into(target: Tensor, source: Tensor) -> None:
    """Copies, refusing a broadcast: a checkpoint tensor of the wrong shape is an error.

    Raises:
        ValueError: the shapes differ.
    """
    if target.shape != source.shape:
        raise ValueError(f"the parameter takes {tuple(target.shape)}, the checkpoint part is {tuple(source.shape)}")
    target.copy_(source)


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
