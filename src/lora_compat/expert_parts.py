"""An adapter's part of a mixture of experts, and which part of every expert a rank owns."""

from __future__ import annotations

from dataclasses import dataclass

from lora_compat.adapters import SubAdapter
from lora_compat.experts import FusedMoE
from lora_compat.family import Family
from lora_compat.sharding import OutputSlice, ShardPlan


@dataclass(frozen=True, slots=True, eq=False)
class ExpertAdapter:
    """One expert's part of an adapter, unsharded.

    ``gate_up`` holds gate and up (None: absent), or one part whose B has the rows of both, gate first; ``down`` may
    be absent too.
    """

    gate_up: tuple[SubAdapter | None, ...] = (None, None)
    down: SubAdapter | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ExpertsAdapter:
    """One adapter's part of a mixture: an entry for every expert, None where it has none."""

    experts: tuple[ExpertAdapter | None, ...]
    scaling: float = 1.0


def plans_of(layer: FusedMoE, *, fully_sharded: bool) -> dict[str, ShardPlan]:
    """What this rank owns of every expert: gate and up are column-parallel, down is row-parallel."""
    rank, size, columns = layer.tp_rank, layer.tp_size, layer.columns
    sharded = fully_sharded and size > 1
    half = OutputSlice(layer.intermediate_size, columns)
    whole = OutputSlice(layer.hidden_size, range(layer.hidden_size))
    inputs = range(layer.hidden_size)
    return {
        "w13_weight": ShardPlan(Family.MERGED_COLUMN, rank, size, sharded, inputs, (half, half)),
        "w2_weight": ShardPlan(Family.ROW, rank, size, sharded, columns, (whole,)),
    }
