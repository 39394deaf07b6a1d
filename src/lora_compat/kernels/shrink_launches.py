"""The launches of the shrink kernels, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.launch import multiprocessors, one_by_one, power_of_two, token_tiles

SHARES = (1, 2, 3, 4, 5, 6, 8, 11, 13, 16)  # few, for expand is compiled for each
MIN_SHARE = 128  # of K
SHRINK_TILES = tuple((m, n) for m in (16, 32, 64, 128) for n in (16, 32, 64, 128, 256) if m * n <= 128 * 128)
DEPTHS = (64, 128, 256)  # of K at once
SHRINK_STAGES = 4
LINE = 64  # of K, a line of the cache in 16 bits: what tiles of one token split K by
SINGLE_TILE = 16_384  # elements of A that a program of one token holds in registers
SHARED_MEMORY = 200_000  # bytes of a multiprocessor that the stages of shrink may take


class ShrinkLaunch(NamedTuple):
    """Tile ``[block_m tokens, block_n of slices × rank]``, walking a share of K by ``block_k``."""

    block_m: int
    block_n: int
    block_k: int
    split: int
    num_warps: int
    num_stages: int


def shrink_launch(batch: TokenBatch, slices: int, rank: int, k_size: int, dtype: torch.dtype) -> ShrinkLaunch:
    """The cheapest for A of ``slices``, ``rank``, ``k_size`` and ``dtype``."""
    programs = multiprocessors(batch.token_slots.device)
    return _shrink_launch(batch.group_sizes, slices, rank, k_size, dtype == torch.float32, programs)


@lru_cache(maxsize=4096)
def _shrink_launch(
    groups: tuple[int, ...], slices: int, rank: int, k_size: int, wide: bool, programs: int
) -> ShrinkLaunch:
    if one_by_one(groups) and k_size <= 4 * SINGLE_TILE:
        return single_shrink_launch(groups, slices * rank, k_size, programs)
    launches = shrink_launches(groups, slices * rank, k_size, wide, programs)
    return min(launches, key=lambda launch: shrink_cost(launch, groups, slices, rank, k_size, programs))


def single_shrink_launch(groups: tuple[int, ...], columns: int, k_size: int, programs: int) -> ShrinkLaunch:
    """For one token a tile: shares of at most 512 of K, as far as 16 go, and a program for each multiprocessor."""
    lines = -(-k_size // LINE)
    split = next((share for share in SHARES if -(-lines // share) * LINE <= 512), SHARES[-1])
    block_k = power_of_two(-(-lines // split) * LINE, LINE, SINGLE_TILE)
    tall = (n for n in (16, 8) if n * block_k <= SINGLE_TILE and sum(groups) * -(-columns // n) * split >= programs)
    return ShrinkLaunch(1, next(tall, 4), block_k, split, 4, 1)


def shrink_launches(
    groups: tuple[int, ...], columns: int, k_size: int, wide: bool, programs: int
) -> Iterator[ShrinkLaunch]:
    """Those that may serve groups of these sizes; ``wide`` elements are float32."""
    tallest = power_of_two(max(groups, default=1), 16, 32 if wide else 128)
    widest = power_of_two(columns, 16, 32 if wide else 256)
    for block_m, block_n in SHRINK_TILES:
        if block_m <= tallest and block_n <= widest:
            tiles = token_tiles(groups, block_m) * -(-columns // block_n)
            num_warps = 8 if block_m * block_n >= 64 * 256 else 4
            for split in shares_of_k(k_size, tiles, programs):
                for block_k in (32,) if wide else depths(block_m, block_n):
                    yield ShrinkLaunch(block_m, block_n, block_k, split, num_warps, SHRINK_STAGES)


def depths(block_m: int, block_n: int) -> list[int]:
    """How much of K a program may read at once."""
    deepest = SHARED_MEMORY // (2 * SHRINK_STAGES * (block_m + block_n))
    return [depth for depth in DEPTHS if depth <= deepest and (depth < 256 or block_m * block_n <= 64 * 64)]


def shares_of_k(k_size: int, tiles: int, programs: int) -> set[int]:
    """Into how many shares K may be split.

    Such that ``tiles`` fill the ``programs`` multiprocessors once or twice, or one share fewer.
    """
    most = max(1, k_size // MIN_SHARE)
    fitting = (max(1, min(most, fill // max(1, tiles))) for fill in (programs, 2 * programs))
    largest = {max(index for index, share in enumerate(SHARES) if share <= bound) for bound in fitting}
    return {SHARES[max(0, index - fewer)] for index in largest for fewer in (0, 1)}


def shrink_cost(
    launch: ShrinkLaunch, groups: tuple[int, ...], slices: int, rank: int, k_size: int, programs: int
) -> float:
    """What its busiest multiprocessor reads, multiplies and waits for, and what is written for expand to add up."""
    tokens, tiles = sum(groups), max(1, token_tiles(groups, launch.block_m))
    columns, rows = slices * rank, min(launch.block_m, tokens / tiles)
    column_tiles = -(-columns // launch.block_n)
    steps = -(-k_size // (launch.block_k * launch.split))
    share = steps * launch.block_k
    turns = tiles * column_tiles * launch.split / programs
    turns = 1 if turns <= 1 else 0.83 + 0.72 * turns if turns < 2 else ceil(turns)  # two share a multiprocessor
    product = 0.0112 * launch.block_m * launch.block_n * share
    work = 2 * share * (rows + columns / column_tiles) + product + 1_850 * steps
    written = 27 * launch.split * columns * tokens / programs
    return turns * work + written + 1.4 * launch.split * min(rows, 64) * rank
