"""The quant methods of `lora_compat.quantization` behind the signature that the layers of vLLM and SGLang call."""

from __future__ import annotations

from typing import Any

import torch

from lora_compat.quantization import QuantConfig, QuantMethod


class ServedQuantConfig(QuantConfig):
    """What their linear layers read of a ``QuantizationConfig``."""

    online_quantization_config = None

    def get_quant_method(self, layer: Any, prefix: str) -> QuantMethod:
        method = super().get_quant_method(layer, prefix)
        create = method.create_weights

        def create_weights(
            layer: Any,
            input_size_per_partition: int,
            output_partition_sizes: list[int],
            input_size: int,
            output_size: int,
            params_dtype: torch.dtype,
            **extra_weight_attrs: Any,
        ) -> None:
            layer.input_size_per_partition = (
                input_size_per_partition  # replicated layers lack it; vLLM's methods set it
            )
            loader = extra_weight_attrs["weight_loader"]
            create(layer, input_size_per_partition, output_partition_sizes, params_dtype, loader)

        method.create_weights = create_weights  # type: ignore[method-assign,assignment]
        return method
