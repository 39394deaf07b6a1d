"""Multi-adapter LoRA kernels: ``shrink`` (x·Aᵀ), ``expand`` (h·Bᵀ, added in place) and the batch they read."""

from lora_compat.kernels.batch import NO_ADAPTER, TokenBatch
from lora_compat.kernels.torch_ops import accumulation_dtype, expand, shrink

__all__ = ["NO_ADAPTER", "TokenBatch", "accumulation_dtype", "expand", "shrink"]
