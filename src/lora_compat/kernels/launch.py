"""Launch parameters of the Triton kernels: a small, stated space, and what a launch of it costs.

=================  ==========================  ==============================================
parameter          values                      chosen by
=================  ==========================  ==============================================
shrink tile        `SHRINK_TILES`              `shrink_cost`
``split`` of K     `SHARES`                    `shares_of_k`, `shrink_cost`
``block_k``        32, 64, 128, 256            `depths`, `shrink_cost`
expand tile        `EXPAND_TILES`              `expand_cost`
columns at once    whole tiles                 `tiles_per_program`, `expand_cost`
``block_r``        16 to 256                   rank
tile of one token  `SINGLE_EXPAND`             `one_by_one`, `single_shrink_launch`
=================  ==========================  ==============================================

A cost is in bytes: what one multiprocessor could have read meanwhile. The numbers in it were fitted to 7,700 launches
timed on an H200 (docs/results/gpu.md), whose best they miss by 3 to 5 % on average. Sizes, strides, the split of K and
the chunk of columns that one program walks are run-time arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch

from lora_compat.kernels.batch import TokenBatch

SHARES = (1, 2, 3, 4, 5, 6, 8, 11, 13, 16)  # few, for expand is compiled for each
MIN_SHARE = 128  # of K
SHRINK_TILES = tuple((m, n) for m in (16, 32, 64, 128) for n in (16, 32, 64, 128, 256) if m * n <= 128 * 128)
DEPTHS = (64, 128, 256)  # of K at once
SHRINK_STAGES = 4
LINE = 64  # of K, a line of the cache in 16 bits: what tiles of one token split K by
SINGLE_TILE = 16_384  # elements of A that a program of one token holds in registers
# (columns, warps) by block_r, for one token; a thread for each of the rank adds up its shares. Others: tensor cores.
SINGLE_EXPAND = {8: (128, 4), 64: (32, 2), 128: (32, 4), 256: (32, 4)}
SHARED_MEMORY = 200_000  # bytes of a multiprocessor that the stages of shrink may take
# (tokens, columns, warps, stages) by block_r; no stages: the next tile is read by hand, the first before the wait.
NARROW = ((16, 64, 4, 0), (16, 128, 4, 0), (32, 64, 4, 0), (32, 128, 4, 0), (64, 64, 4, 0), (64, 128, 4, 0))
EXPAND_TILES = {
    16: NARROW,
    32: NARROW,
    64: NARROW,
    128: ((16, 128, 4, 0), (64, 64, 4, 0)),
    256: ((16, 64, 4, 0), (16, 64, 4, 3), (16, 128, 4, 2), (32, 64, 4, 3)),
}
WALKED = (64, 128, 4, 0, 64)  # for ranks above 128 as well, block_r last: so much of the rank at a time


class ShrinkLaunch(NamedTuple):
    """Tile ``[block_m tokens, block_n of slices × rank]``, walking a share of K by ``block_k``."""

    block_m: int
    block_n: int
    block_k: int
    split: int
    num_warps: int
    num_stages: int


class ExpandLaunch(NamedTuple):
    """Tiles ``[block_m tokens, block_n columns]``; a program walks ``chunk`` columns, the rank by ``block_r``.

    ``num_stages`` tiles of B and y are on their way at once; 0 is one, read by hand.
    """

    block_m: int
    block_n: int
    block_r: int
    chunk: int
    num_warps: int
    num_stages: int


def power_of_two(value: int, low: int, high: int) -> int:
    """The smallest power of two that holds ``value``, kept between ``low`` and ``high``."""
    return min(max(1 << max(value - 1, 0).bit_length(), low), high)


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run at once; the interpreter gets a small number that still makes it split K."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


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


def one_by_one(groups: tuple[int, ...]) -> bool:
    """Whether tokens share slots so little that each is multiplied by itself."""
    most = max(groups, default=1)
    return most <= 2 or (most <= 8 and 2 * sum(groups) <= 3 * len(groups))


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
    launches = expand_launches(groups, slice_sizes, rank, dtype, programs)
    return min(launches, key=lambda launch: expand_cost(launch, groups, slice_sizes, rank, split, programs))


def expand_launches(
    groups: tuple[int, ...], slice_sizes: tuple[int, ...], rank: int, dtype: torch.dtype, programs: int
) -> Iterator[ExpandLaunch]:
    """Those that may serve groups of these sizes."""
    # Float16 and float32 need registers for their products; more than 256 is walked in steps.
    deepest = {torch.bfloat16: 256, torch.float16: 64, torch.float32: 32}[dtype]
    block_r = power_of_two(rank, 16, deepest if rank <= 256 else min(deepest, 64))
    tallest = power_of_two(max(groups, default=1), 16, 128)
    tiles = [(*tile, block_r) for tile in EXPAND_TILES[block_r]] + ([WALKED] if block_r == 256 else [])
    for block_m, block_n, num_warps, num_stages, at_once in tiles:
        if block_m <= tallest and (block_n <= 64 or dtype == torch.bfloat16):
            for turns in range(1, 3 if num_stages else 5):
                height = token_tiles(groups, block_m)
                chunk = block_n * tiles_per_program(slice_sizes, block_n, height, turns * programs)
                yield ExpandLaunch(block_m, block_n, at_once, chunk, num_warps, num_stages)


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
    step *= (2.2 if launch.block_n == 64 else 1) * (1.4 if rank > launch.block_r else 1)
    step *= 3 if launch.block_m == 16 and launch.block_r == 128 else 1
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


def token_tiles(groups: tuple[int, ...], block: int) -> int:
    """How many tiles of ``block`` tokens the groups of one slot each make."""
    return sum(-(-size // block) for size in groups)
