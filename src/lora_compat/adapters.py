"""Adapters as data: what a deployment allows, and what one adapter holds for one module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lora_compat.errors import AdapterShapeError, AmbiguousPartsError


@dataclass(frozen=True, slots=True)
class LoRAConfig:
    """How many adapters a deployment serves at once, and how large they may be (vLLM's ``LoRAConfig``)."""

    max_loras: int = 1
    max_lora_rank: int = 16
    fully_sharded_loras: bool = False
    lora_dtype: torch.dtype | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SubAdapter:
    """LoRA A ``[rank, in]`` and LoRA B ``[out, rank]`` of one checkpoint module, unsharded."""

    lora_a: Tensor
    lora_b: Tensor

    @property
    def rank(self) -> int:
        return int(self.lora_a.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class LayerAdapter:
    """One adapter's part of one layer.

    ``parts`` follows the packed module's names; an absent sub-adapter is None. A part covers as many consecutive
    outputs as its B has rows for, so one part that covers them all is the fused form (MATH-8). ``scaling`` is
    ``alpha / r`` or ``alpha / √r`` and is applied exactly once (MATH-12).
    """

    parts: tuple[SubAdapter | None, ...]
    scaling: float = 1.0


def assign_parts(parts: Sequence[SubAdapter | None], sizes: Sequence[int], *, module: str = "") -> tuple[range, ...]:
    """Which consecutive output slices each part covers, found from the rows of its B.

    Raises:
        AdapterShapeError: there is one part and its B does not have the rows of all outputs.
        AmbiguousPartsError: the parts fit in no way, or in more than one.
    """
    rows = [None if part is None else int(part.lora_b.shape[0]) for part in parts]
    if len(rows) == len(sizes) and all(row in (None, size) for row, size in zip(rows, sizes, strict=True)):
        return tuple(range(i, i + 1) for i in range(len(sizes)))
    if len(rows) == 1 and rows[0] != sum(sizes):
        raise AdapterShapeError(module, "LoRA B", expected=f"{sum(sizes)} rows", received=f"{rows[0]} rows")
    ways = [
        ranges
        for cuts in combinations(range(1, len(sizes)), len(rows) - 1)
        for ranges in [tuple(map(range, (0, *cuts), (*cuts, len(sizes))))]
        if all(row is None or row == sum(sizes[i] for i in covered) for row, covered in zip(rows, ranges, strict=True))
    ]
    if len(ways) != 1:
        raise AmbiguousPartsError(module, rows, sizes, len(ways))
    return ways[0]
