"""What a slot has to hold for a parameter, and what fully sharded ranks need not hold of it, as the maps say."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lora_compat.checkpoint_map import CheckpointMap, Piece
from lora_compat.families import registry
from lora_compat.family import Family
from lora_compat.sharding import OutputSlice, ShardPlan

Lane = tuple[object, ...]


def numbers(piece: Piece, found: CheckpointMap) -> tuple[int, ...]:
    """Which matrices of its tensor, a stack maybe, a piece has rows of."""
    info = found.shapes[piece.tensor]
    height = info.shape[-2] if len(info.shape) > 2 else info.rows
    return tuple((piece.rows.tensor() // height).unique().tolist())


def lanes(parameter: str, maps: Sequence[CheckpointMap]) -> int:
    """How many LoRA A a matrix can get at once: one for each matrix of the checkpoint that a rank has a piece of."""
    return max(sum(len(numbers(piece, found)) for piece in found.parameters[parameter].pieces) for found in maps)


def plan_of(module: nn.Module, parameter: str, maps: Sequence[CheckpointMap], *, fully_sharded: bool) -> ShardPlan:
    """A plan for adapters that are this rank's part already, of the matrix ``parameter`` of ``module``.

    Args:
        maps: of all ranks, this one's first.

    Fully sharded, the rank of A is cut where all ranks multiply with the same A, and the rows of B where all have the
    same B; where the loader has cut both, nothing more is.
    """
    rows, columns = maps[0].parameters[parameter].shape
    entry = registry.lookup(type(module))
    family = entry[1] if entry else Family.REPLICATED
    tp_rank, tp_size = (int(getattr(module, name, default)) for name, default in (("tp_rank", 0), ("tp_size", 1)))
    sharded = fully_sharded and tp_size > 1 and _alike(parameter, maps, of_rows=family is Family.ROW)
    whole = OutputSlice(rows, range(rows))
    return ShardPlan(family, tp_rank, tp_size, sharded, range(columns), (whole,), local=True)


def _alike(parameter: str, maps: Sequence[CheckpointMap], *, of_rows: bool) -> bool:
    """Whether all ranks have the same factors for their outputs (``of_rows``), or for their inputs."""
    seen = {
        tuple(_lane(piece, found, of_rows=of_rows) for piece in found.parameters[parameter].pieces) for found in maps
    }
    return len(seen) == 1


def _lane(piece: Piece, found: CheckpointMap, *, of_rows: bool) -> Lane:
    along, across = (piece.target, piece.rows), (piece.columns, piece.first_column)
    return piece.tensor, numbers(piece, found), along if of_rows is not piece.transposed else across
