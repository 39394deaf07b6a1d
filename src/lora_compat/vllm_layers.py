"""vLLM's linear layers in the registry, so that `wrap_layer` serves every subclass of them.

They are registered once somebody has imported vLLM's linear layers; nothing here makes vLLM a dependency.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from lora_compat.errors import LoRAError
from lora_compat.families import FamilyRegistry, registry
from lora_compat.family import Family
from lora_compat.mapped.kinds import embeddings, heads, mixtures
from lora_compat.parallel import SINGLE, TensorParallelGroup
from lora_compat.weights import plain_parameters

_MODULE = "vllm.model_executor.layers.linear"
_VOCABULARY = "vllm.model_executor.layers.vocab_parallel_embedding"
_EXPERTS = "vllm.model_executor.layers.fused_moe.routed_experts"
_BASES = {
    "ReplicatedLinear": Family.REPLICATED,
    "ColumnParallelLinear": Family.COLUMN,
    "MergedColumnParallelLinear": Family.MERGED_COLUMN,
    "QKVParallelLinear": Family.QKV,
    "RowParallelLinear": Family.ROW,
}


class SubGroupError(LoRAError):
    """A layer sharded over a part of vLLM's tensor-parallel group, whose fully sharded adapters need a collective."""

    def __init__(self, size: int, world_size: int) -> None:
        super().__init__(
            f"a layer is sharded over {size} ranks of a tensor-parallel group of {world_size}: its fully sharded "
            "adapters would need a collective of that sub-group. Set fully_sharded_loras=False."
        )


class VllmGroup:
    """vLLM's tensor-parallel group, as one layer is sharded over it."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def all_gather(self, tensor: Tensor, dim: int = -1) -> Tensor:
        gathered: Tensor = self._coordinator().all_gather(tensor, dim)
        return gathered

    def all_reduce(self, tensor: Tensor) -> Tensor:
        total: Tensor = self._coordinator().all_reduce(tensor)
        return total

    def _coordinator(self) -> Any:
        coordinator = importlib.import_module("vllm.distributed.parallel_state").get_tp_group()
        if coordinator.world_size != self.size:
            raise SubGroupError(self.size, coordinator.world_size)
        return coordinator


def group_of(layer: nn.Module) -> TensorParallelGroup:
    """The group that ``layer`` is sharded over; a layer with ``disable_tp`` is alone whatever the world's size."""
    built: Any = layer
    return VllmGroup(int(built.tp_rank), int(built.tp_size)) if built.tp_size > 1 else SINGLE


def register_vllm_layers(registry: FamilyRegistry) -> None:
    """Registers the five linear bases of ``vllm.model_executor.layers.linear``, and the parameters they hold."""
    linear = importlib.import_module(_MODULE)
    for name, family in _BASES.items():
        registry.register(getattr(linear, name), family, group_of)
    plain_parameters.add(importlib.import_module("vllm.model_executor.parameter").BasevLLMParameter)


def register_vocabulary(registry: FamilyRegistry) -> None:
    """Says which of vLLM's layers look up, and which of those multiply instead."""
    vocabulary = importlib.import_module(_VOCABULARY)
    embeddings.add(vocabulary.VocabParallelEmbedding)
    heads.add(vocabulary.ParallelLMHead)


def register_mixtures(registry: FamilyRegistry) -> None:
    """Says which methods of vLLM's experts are handed tokens."""
    mixtures[importlib.import_module(_EXPERTS).RoutedExperts] = ("forward_modular", "forward_monolithic")


registry.register_once_imported(_MODULE, register_vllm_layers)
registry.register_once_imported(_VOCABULARY, register_vocabulary)
registry.register_once_imported(_EXPERTS, register_mixtures)
