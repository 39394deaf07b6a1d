"""Launch parameters of the Triton kernels: a small, stated space, so that a process compiles few variants.

==================  =====================  ==========================================================
parameter           values                 chosen by
==================  =====================  ==========================================================
shrink ``block_m``  16, 32, 64             tokens of the busiest slot, smaller where tiles are few
shrink ``block_n``  16, 32, 64             slices × rank
shrink ``block_k``  32, 64, 128, 256       tile size and number of tiles
``split``           1 to 8                 `shares_of_k`
expand ``block_m``  16, 32, 64             tokens of the busiest slot
expand ``block_n``  64, 128                number of tiles
expand ``block_r``  16, 32, 64             rank
==================  =====================  ==========================================================

Sizes, strides and the chunk of columns that one program walks are run-time arguments. The numbers were measured
on an H100 (docs/results/gpu.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from lora_compat.kernels.batch import TokenBatch

MAX_SPLIT = 8
MIN_SHARE = 512  # of K: a program with less spends its time starting


class ShrinkLaunch(NamedTuple):
    """Tile ``[block_m tokens, block_n of slices × rank]``, walking a share of K by ``block_k``."""

    block_m: int
    block_n: int
    block_k: int
    split: int
    num_warps: int
    num_stages: int


class ExpandLaunch(NamedTuple):
    """Tiles ``[block_m tokens, block_n columns]``; a program walks ``chunk`` columns, the rank by ``block_r``."""

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
    wide = dtype == torch.float32
    block_m = power_of_two(batch.largest_group, 16, 32 if wide else 64)
    while block_m > 16 and len(batch.tiles(block_m).slots) * -(-columns // 64) < programs // 6:
        block_m //= 2
    block_n = power_of_two(columns, 16, 64 if block_m == 64 else 32)
    tiles = len(batch.tiles(block_m).slots) * -(-columns // block_n)
    split = shares_of_k(k_size, tiles, programs, small=block_m * block_n <= 1024)
    if wide:
        block_k = 32
    elif block_m * block_n <= 1024 and tiles < programs:
        block_k = 256
    else:
        block_k = 64 if block_m * block_n >= 4096 and tiles >= 2 * programs else 128
    return ShrinkLaunch(block_m, block_n, block_k, split, num_warps=4, num_stages=4)


def shares_of_k(k_size: int, tiles: int, programs: int, *, small: bool) -> int:
    """Into how many shares K is split, so that ``tiles`` keep ``programs`` multiprocessors busy.

    The kernel that sums the shares pays for each, so they fill the GPU once; only where that leaves K whole and
    multiprocessors idle, and tiles are so ``small`` that two programs share one, twice.
    """
    shares = programs // max(1, tiles)
    if shares == 1 and small and tiles < programs:
        shares = 2 * programs // tiles
    return max(1, min(MAX_SPLIT, shares, k_size // MIN_SHARE))


def expand_launch(batch: TokenBatch, slice_sizes: tuple[int, ...], rank: int, dtype: torch.dtype) -> ExpandLaunch:
    """For the columns of ``slice_sizes`` and weights of ``dtype`` and ``rank``."""
    programs = multiprocessors(batch.token_slots.device)
    wide = dtype == torch.float32
    block_m = power_of_two(batch.largest_group, 16, 64)
    tiles = max(1, len(batch.tiles(block_m).slots))
    many = tiles * sum(slice_sizes) >= 4 * programs * 128
    block_n = 128 if many and dtype == torch.bfloat16 else 64  # float16 needs the registers for its products
    block_r = power_of_two(rank, 16, 32 if wide else 64)
    at_once = programs * (3 if block_m * block_n <= 2048 else 2)  # what the registers let run
    chunk = block_n * tiles_per_program(slice_sizes, block_n, tiles, at_once)
    return ExpandLaunch(block_m, block_n, block_r, chunk, num_warps=4)


@lru_cache(maxsize=4096)
def tiles_per_program(slice_sizes: tuple[int, ...], block_n: int, token_tiles: int, at_once: int) -> int:
    """How many column tiles a program walks so that the last program ends soonest.

    ``at_once`` programs run together; a program costs its tiles and about one more to start.
    """

    def end(tiles: int) -> int:
        programs = token_tiles * sum(-(-size // (tiles * block_n)) for size in slice_sizes)
        return -(-programs // at_once) * (tiles + 1)

    return min(range(1, -(-max(slice_sizes) // block_n) + 1), key=end, default=1)
