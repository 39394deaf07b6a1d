"""Launch parameters of the Triton kernels: a small, stated space, so that a process compiles few variants.

==================  ==========================  =====================================================
parameter           values                      chosen by
==================  ==========================  =====================================================
``block_m``         16, 32, 64                  tokens of the busiest slot
shrink ``block_n``  16, 32, 64, 128, 256        slices × rank, split further where the grid is small
shrink ``block_k``  64, 128                     tile size
``split``           1, 2, 4, 8, 16, 32          what fills the multiprocessors
expand ``block_n``  64, 128                     tokens of the busiest slot
``block_r``         16, 32, 64                  rank
==================  ==========================  =====================================================

Sizes and strides stay run-time arguments.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from lora_compat.kernels.batch import TokenBatch

MAX_SPLIT = 16


class ShrinkLaunch(NamedTuple):
    """Tile ``[block_m tokens, block_n of slices × rank]``, walking a share of K by ``block_k``."""

    block_m: int
    block_n: int
    block_k: int
    split: int
    num_warps: int
    num_stages: int


class ExpandLaunch(NamedTuple):
    """Tiles ``[block_m tokens, block_n columns]``, one program walking a chunk of columns, the rank by ``block_r``."""

    block_m: int
    block_n: int
    block_r: int
    chunk: int
    num_warps: int


def power_of_two(value: int, low: int, high: int) -> int:
    """The smallest power of two that holds ``value``, kept between ``low`` and ``high``."""
    return min(max(1 << max(value - 1, 0).bit_length(), low), high)


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run at once; the interpreter gets a small number that still makes it split K."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def shrink_launch(batch: TokenBatch, columns: int, k_size: int, dtype: torch.dtype) -> ShrinkLaunch:
    """For ``columns`` = slices × rank."""
    programs = multiprocessors(batch.token_slots.device)
    block_m = power_of_two(batch.largest_group, 16, 64)
    block_n = power_of_two(columns, 16, 32 if dtype == torch.float32 else 256)
    block_k = 64 if block_m * block_n > 2048 or dtype == torch.float32 else 128
    tiles = len(batch.tiles(block_m).slots) * -(-columns // block_n)
    steps = -(-k_size // block_k)
    split = 1
    while split < min(MAX_SPLIT, steps) and tiles * split < programs:
        split *= 2
    return ShrinkLaunch(block_m, block_n, block_k, split, 8 if block_m * block_n > 8192 else 4, 4)


def expand_launch(batch: TokenBatch, columns: int, rank: int, dtype: torch.dtype) -> ExpandLaunch:
    """For ``lora_b`` of ``columns`` by ``rank``."""
    block_m = power_of_two(batch.largest_group, 16, 64)
    block_n = 64 if block_m == 64 or dtype == torch.float32 else 128
    block_r = power_of_two(rank, 16, 32 if dtype == torch.float32 else 64)
    programs = 3 * multiprocessors(batch.token_slots.device)
    chunks = max(1, programs // max(1, len(batch.tiles(block_m).slots)))
    chunk = block_n * max(1, -(-columns // (chunks * block_n)))
    return ExpandLaunch(block_m, block_n, block_r, chunk, 4)
