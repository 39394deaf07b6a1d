"""Quant methods: how a linear layer stores its weight, multiplies with it, and gives it back dense."""

from lora_compat.quantization.fp8 import (
    BlockFp8LinearMethod,
    ChannelFp8LinearMethod,
    DynamicFp8LinearMethod,
    TensorFp8LinearMethod,
)
from lora_compat.quantization.int4 import PackedInt4LinearMethod, QweightInt4LinearMethod
from lora_compat.quantization.int8 import Int8LinearMethod
from lora_compat.quantization.protocol import (
    QuantConfig,
    QuantMethod,
    UnquantizedLinearMethod,
    WeightOnlyLinearMethod,
    set_loading,
    stored_weight,
)

__all__ = [
    "BlockFp8LinearMethod",
    "ChannelFp8LinearMethod",
    "DynamicFp8LinearMethod",
    "Int8LinearMethod",
    "PackedInt4LinearMethod",
    "QuantConfig",
    "QuantMethod",
    "QweightInt4LinearMethod",
    "TensorFp8LinearMethod",
    "UnquantizedLinearMethod",
    "WeightOnlyLinearMethod",
    "set_loading",
    "stored_weight",
]
