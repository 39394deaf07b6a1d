"""Multi-adapter LoRA kernels: ``shrink`` (x·Aᵀ), ``expand`` (h·Bᵀ, added in place), both, and their batch."""

from lora_compat.kernels.batch import NO_ADAPTER, TokenBatch
from lora_compat.kernels.dispatch import add_lora, expand, shrink
from lora_compat.kernels.torch_ops import accumulation_dtype

__all__ = ["NO_ADAPTER", "TokenBatch", "accumulation_dtype", "add_lora", "expand", "shrink"]
