"""The quant methods that stand for the drawn schemes, on any library's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from lora_compat.quantization import (
    BlockFp8LinearMethod,
    ChannelFp8LinearMethod,
    DynamicFp8LinearMethod,
    Int8LinearMethod,
    PackedInt4LinearMethod,
    QweightInt4LinearMethod,
    TensorFp8LinearMethod,
    WeightOnlyLinearMethod,
)
from strategies.cases import Quantization
from strategies.quantization import BLOCK, GROUP_SIZE

METHODS: Mapping[Quantization, Callable[[], WeightOnlyLinearMethod]] = {
    Quantization.INT8: Int8LinearMethod,
    Quantization.INT4_PACKED: partial(PackedInt4LinearMethod, GROUP_SIZE),
    Quantization.INT4_QWEIGHT: partial(QweightInt4LinearMethod, GROUP_SIZE),
    Quantization.FP8_TENSOR: TensorFp8LinearMethod,
    Quantization.FP8_CHANNEL: ChannelFp8LinearMethod,
    Quantization.FP8_BLOCK: partial(BlockFp8LinearMethod, BLOCK),
    Quantization.FP8_DYNAMIC: DynamicFp8LinearMethod,
}
