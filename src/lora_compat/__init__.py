"""LoRA on any subclass of a vLLM-style linear layer: the reference implementation of the conformance contract."""

from lora_compat import vllm_layers as _vllm_layers  # noqa: F401  # has them registered once vLLM is there
from lora_compat.adapters import LayerAdapter, LoRAConfig, SubAdapter
from lora_compat.certifying import certify
from lora_compat.embeddings import LoRAEmbedding, wrap_embedding
from lora_compat.errors import LoRAError
from lora_compat.expert_adapters import LoRAExperts, wrap_experts
from lora_compat.expert_parts import ExpertAdapter, ExpertsAdapter
from lora_compat.experts import FusedMoE
from lora_compat.families import family_of, registry
from lora_compat.family import Family
from lora_compat.kernels import NO_ADAPTER, TokenBatch
from lora_compat.layers import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from lora_compat.manager import LoRAManager
from lora_compat.model_adapters import Adapter, ModuleAdapter
from lora_compat.model_wrapping import UnsupportedLayerWarning
from lora_compat.parallel import DistributedGroup, SingleGroup, TensorParallelGroup, tensor_parallel
from lora_compat.peft_loading import load_adapter
from lora_compat.sharding import OutputSlice, ShardPlan
from lora_compat.targets import PackedModules, TargetModules
from lora_compat.unwrap import dense_weight, quant_method_of, unwrap
from lora_compat.vocabulary import LogitsProcessor, ParallelLMHead, VocabParallelEmbedding
from lora_compat.warmup import dummy_adapter, dummy_experts, warmup_rank, warmup_rank_of
from lora_compat.wrapper import LoRALinear, wrap_layer

__all__ = [
    "NO_ADAPTER",
    "Adapter",
    "ColumnParallelLinear",
    "DistributedGroup",
    "ExpertAdapter",
    "ExpertsAdapter",
    "Family",
    "FusedMoE",
    "LayerAdapter",
    "LinearBase",
    "LoRAConfig",
    "LoRAEmbedding",
    "LoRAError",
    "LoRAExperts",
    "LoRALinear",
    "LoRAManager",
    "LogitsProcessor",
    "MergedColumnParallelLinear",
    "ModuleAdapter",
    "OutputSlice",
    "PackedModules",
    "ParallelLMHead",
    "QKVParallelLinear",
    "ReplicatedLinear",
    "RowParallelLinear",
    "ShardPlan",
    "SingleGroup",
    "SubAdapter",
    "TargetModules",
    "TensorParallelGroup",
    "TokenBatch",
    "UnsupportedLayerWarning",
    "VocabParallelEmbedding",
    "certify",
    "dense_weight",
    "dummy_adapter",
    "dummy_experts",
    "family_of",
    "load_adapter",
    "quant_method_of",
    "registry",
    "tensor_parallel",
    "unwrap",
    "warmup_rank",
    "warmup_rank_of",
    "wrap_embedding",
    "wrap_experts",
    "wrap_layer",
]

__version__ = "0.1.0"
