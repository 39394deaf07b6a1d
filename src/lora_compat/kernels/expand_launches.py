"""The launches of the expand kernels, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.launch import multiprocessors, one_by_one, power_of_two, token_tiles

# (columns, warps) by block_r, for one token; a thread for each of the rank adds up its shares. Others: tensor cores.
SINGLE_EXPAND = {8: (128, 4), 64: (32, 2), 128: (32, 4), 256: (32, 4)}
# (tokens, columns, warps, stages) by block_r; no stages: the next tile is read by hand, the first before the wait.
NARROW = ((16, 64, 4, 0), (16, 128, 4, 0), (32, 64, 4, 0), (32, 128, 4, 0), (64, 64, 4, 0), (64, 128, 4, 0))
EXPAND_TILES = {
    16: NARROW,
    32: NARROW,
    64: NARROW,
    128: ((16, 64, 4, 0), (64, 64, 4, 0)),
    256: ((16, 64, 4, 0), (16, 64, 4, 3), (16, 128, 4, 2), (32, 64, 4, 3)),
}
HOLDS = {
    torch.bfloat16: 256,
    torch.float16: 64,
    torch.float32: 32,
}  # of the rank: the others need registers for products
STEP = 32  # of the rank at once, for larger ranks, and where that leaves room for three programs a multiprocessor


class ExpandLaunch(NamedTuple):
    """Tiles ``[block_m tokens, block_n columns]``; a program walks ``chunk`` columns, or the rank by ``block_r``.

    ``num_stages`` tiles of B (and y) are on their way at once; 0 is one, read by hand.
    """

    block_m: int
    block_n: int
    block_r: int
    chunk: int
    num_warps: int
    num_stages: int


def expand_launch(
    batch: TokenBatch, slice_sizes: tuple[int, ...], rank: int, dtype: torch.dtype, split: int = 1
) -> ExpandLaunch:
    """The cheapest for the columns of ``slice_sizes``, weights of ``dtype`` and ``rank``, and ``split`` shares."""
    programs = multiprocessors(batch.token_slots.device)
    return _expand_launch(batch.group_sizes, slice_sizes, rank, dtype, split, programs)


@lru_cache(maxsize=4096)
def _expand_launch(
    groups: tuple[int, ...], slice_sizes: tuple[int, ...], rank: int, dtype: torch.dtype, split: int, programs: int
) -> ExpandLaunch:
    block_r = power_of_two(rank, 8, 512)
    if one_by_one(groups) and block_r in SINGLE_EXPAND:
        columns, num_warps = SINGLE_EXPAND[block_r]
        return ExpandLaunch(1, columns, block_r, columns, num_warps, 0)
    if walks_the_rank(groups, slice_sizes, rank, dtype, programs):
        return walked_launch(groups, dtype)
    launches = expand_launches(groups, slice_sizes, rank, dtype, programs)
    return min(launches, key=lambda launch: expand_cost(launch, groups, slice_sizes, rank, split, programs))


def expand_launches(
    groups: tuple[int, ...], slice_sizes: tuple[int, ...], rank: int, dtype: torch.dtype, programs: int
) -> Iterator[ExpandLaunch]:
    """Those that may serve groups of these sizes, of a rank that a tile holds."""
    block_r = power_of_two(rank, 16, HOLDS[dtype])
    tallest = power_of_two(max(groups, default=1), 16, 128)
    for block_m, block_n, num_warps, num_stages in EXPAND_TILES[block_r]:
        if block_m <= tallest and (block_n <= 64 or dtype == torch.bfloat16):
            for turns in range(1, 3 if num_stages else 5):
                height = token_tiles(groups, block_m)
                chunk = block_n * tiles_per_program(slice_sizes, block_n, height, turns * programs)
                yield ExpandLaunch(block_m, block_n, block_r, chunk, num_warps, num_stages)


def walks_the_rank(
    groups: tuple[int, ...], slice_sizes: tuple[int, ...], rank: int, dtype: torch.dtype, programs: int
) -> bool:
    """Whether the rank is walked in steps: where no tile holds it, or large tiles are full, and enough of them.

    A tile that holds ranks above 64 leaves room for one or two programs a multiprocessor. Up to 128 it pays all the
    same where programs go on with the next columns, so only those that run all at once walk the rank.
    """
    tiles = token_tiles(groups, 64) * sum(-(-size // 128) for size in slice_sizes)
    full = sum(groups) >= 48 * len(groups) and 4 * tiles >= 5 * programs and (rank > 128 or tiles <= 3 * programs)
    return rank > HOLDS[dtype] or (rank > 64 and full)


def walked_launch(groups: tuple[int, ...], dtype: torch.dtype) -> ExpandLaunch:
    """A tile a program, as tall as the groups."""
    block_m = power_of_two(max(groups, default=1), 16, 64)
    block_n = 128 if block_m > 16 and dtype == torch.bfloat16 else 64
    return ExpandLaunch(block_m, block_n, STEP, block_n, 4, 3)


def expand_cost(
    launch: ExpandLaunch,
    groups: tuple[int, ...],
    slice_sizes: tuple[int, ...],
    rank: int,
    split: int,
    programs: int,
) -> float:
    """What the programs of one multiprocessor read one after the other, and what each waits for.

    They are started in turns of as many as its registers hold at once, of which the last may be short.
    """
    tiles = max(1, token_tiles(groups, launch.block_m))
    rows = min(launch.block_m, sum(groups) / tiles)
    turns = tiles * sum(-(-size // launch.chunk) for size in slice_sizes) / programs
    together = 2.4 if launch.num_stages else {16: 1.6, 32: 8.3}.get(launch.block_m, 2.2)
    turns = 0.54 * max(turns, 1) + 0.46 * together * ceil(turns / together)
    steps = min(launch.chunk, max(slice_sizes)) / launch.block_n
    product = 0.074 * launch.block_m * launch.block_n * power_of_two(rank, 16, 4096)
    step = launch.block_n * (4 * rows + 2 * rank) + product + 1_800
    step *= 3 if launch.block_m == 16 and launch.block_r == 128 else 2.2 if launch.block_n == 64 else 1
    work = split * rows * rank * 4 + steps * step
    return turns * work + 300 * split * launch.block_m + 2_200 * steps


@lru_cache(maxsize=4096)
def tiles_per_program(slice_sizes: tuple[int, ...], block_n: int, token_tiles: int, at_once: int) -> int:
    """How many column tiles a program walks so that the last program ends soonest.

    ``at_once`` programs run together; a program costs its tiles and about one more to start.
    """

    def end(tiles: int) -> int:
        programs = token_tiles * sum(-(-size // (tiles * block_n)) for size in slice_sizes)
        return -(-programs // at_once) * (tiles + 1)

    return min(range(1, -(-max(slice_sizes) // block_n) + 1), key=end, default=1)
