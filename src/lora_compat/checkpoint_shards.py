"""What a rank loads of one checkpoint tensor, and the refusal of a loader of which that cannot be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_compat.errors import UnsupportedLayerError

ShardId = tuple[int | str, ...]  # the loader's extra argument, if it takes one


class ShardingError(UnsupportedLayerError):
    """A weight loader that lays rows out in a way no adapter can follow, or that cannot be found out."""

    def __init__(self, layer: Any, observed: str) -> None:
        super().__init__(
            layer,
            f"on rank {layer.tp_rank} of {layer.tp_size} {observed}. A loader can be followed that puts each output's "
            "checkpoint tensor, given by one shard id, into consecutive rows of the weight, and chooses them by the "
            "layer's tp_rank; for any other give the class a method shard_plan(self, *, fully_sharded) that returns "
            "its lora_compat.ShardPlan",
        )


@dataclass(frozen=True, slots=True)
class CheckpointShard:
    """One checkpoint tensor of ``size`` rows, and what a rank loads of it: row ``rows[i]`` into ``start + i``."""

    id: ShardId
    size: int
    start: int
    rows: tuple[int, ...]
