"""The rank of the dummy adapters that an engine warms up with (RANK)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.embeddings import LoRAEmbedding
from lora_compat.errors import WarmupRankError
from lora_compat.expert_adapters import LoRAExperts
from lora_compat.expert_parts import ExpertAdapter, ExpertsAdapter
from lora_compat.lora_layers import LORA_LAYERS, LoRALayer
from lora_compat.mapped.stacks import StackAdapter, StackedWeights
from lora_compat.slot_layer import SlotLayer

DEFAULT_RANK = 8


def warmup_rank(*, max_lora_rank: int, shards: Iterable[int] = (), default: int = DEFAULT_RANK) -> int:
    """The smallest rank ≥ ``default`` that every module can cut evenly; the largest below it where none fits.

    Args:
        max_lora_rank: no rank may exceed it.
        shards: for each module, into how many parts it cuts the rank (1: not at all).
        default: the rank used where nothing is cut, itself no more than ``max_lora_rank``.

    Raises:
        WarmupRankError: no multiple of the parts' least common multiple is ≤ ``max_lora_rank`` (RANK-4).
    """
    multiple = math.lcm(*shards)
    if multiple == 1:
        return min(default, max_lora_rank)
    rank = -(-default // multiple) * multiple
    if rank > max_lora_rank:
        rank = max_lora_rank // multiple * multiple
    if rank < 1:
        raise WarmupRankError(default, multiple, max_lora_rank)
    return rank


def warmup_rank_of(model: nn.Module, *, max_lora_rank: int, default: int = DEFAULT_RANK) -> int:
    """`warmup_rank` for the wrapped layers of ``model``."""
    shards = {module.rank_shards for module in model.modules() if isinstance(module, LORA_LAYERS)}
    return warmup_rank(max_lora_rank=max_lora_rank, shards=shards, default=default)


def dummy_adapter(layer: LoRALayer, rank: int) -> LayerAdapter | ExpertsAdapter | StackAdapter:
    """An adapter of ``rank`` for ``layer`` that loads like a real one and adds nothing: its A and B are zero."""
    if isinstance(layer, LoRAExperts):
        return dummy_experts(layer, rank)
    if isinstance(layer, StackedWeights):
        return layer.dummy(rank)
    if isinstance(layer, LoRAEmbedding):
        columns, sizes, dtype = layer.vocabulary[-1], [layer.lora_b.shape[1]], layer.lora_a.dtype
    else:
        assert isinstance(layer, SlotLayer)
        columns, dtype = layer.plan.lora_width, layer.slots.lora_a.dtype
        sizes = [part.size for part in layer.plan.slices]
    return LayerAdapter(
        tuple(
            SubAdapter(torch.zeros(rank, columns, dtype=dtype), torch.zeros(size, rank, dtype=dtype)) for size in sizes
        )
    )


def dummy_experts(layer: LoRAExperts, rank: int) -> ExpertsAdapter:
    """An adapter of ``rank`` for every expert that loads like a real one and adds nothing: its A and B are zero."""
    base: Any = layer.base_layer
    hidden, inner, dtype = base.hidden_size, base.intermediate_size, base.params_dtype

    def zeros(out: int, columns: int) -> SubAdapter:
        return SubAdapter(torch.zeros(rank, columns, dtype=dtype), torch.zeros(out, rank, dtype=dtype))

    one = ExpertAdapter((zeros(inner, hidden), zeros(inner, hidden)), zeros(hidden, inner))
    return ExpertsAdapter((one,) * base.global_num_experts)
