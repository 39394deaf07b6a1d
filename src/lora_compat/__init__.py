"""LoRA on any subclass of a vLLM-style linear layer: the reference implementation of the conformance contract."""

from lora_compat.adapters import LayerAdapter, LoRAConfig, SubAdapter
from lora_compat.errors import LoRAError
from lora_compat.families import Family, family_of, registry
from lora_compat.kernels import NO_ADAPTER, TokenBatch
from lora_compat.layers import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from lora_compat.parallel import DistributedGroup, SingleGroup, TensorParallelGroup, tensor_parallel
from lora_compat.sharding import ShardPlan
from lora_compat.unwrap import dense_weight, quant_method_of, unwrap
from lora_compat.warmup import dummy_adapter, warmup_rank, warmup_rank_of
from lora_compat.wrapper import LoRALinear, wrap_layer

__all__ = [
    "NO_ADAPTER",
    "ColumnParallelLinear",
    "DistributedGroup",
    "Family",
    "LayerAdapter",
    "LinearBase",
    "LoRAConfig",
    "LoRAError",
    "LoRALinear",
    "MergedColumnParallelLinear",
    "QKVParallelLinear",
    "ReplicatedLinear",
    "RowParallelLinear",
    "ShardPlan",
    "SingleGroup",
    "SubAdapter",
    "TensorParallelGroup",
    "TokenBatch",
    "dense_weight",
    "dummy_adapter",
    "family_of",
    "quant_method_of",
    "registry",
    "tensor_parallel",
    "unwrap",
    "warmup_rank",
    "warmup_rank_of",
    "wrap_layer",
]
