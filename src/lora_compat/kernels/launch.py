"""Launch parameters of the Triton kernels: a small, stated space, and what a launch of it costs.

=================  ==========================  ==============================================
parameter          values                      chosen by
=================  ==========================  ==============================================
shrink tile        `SHRINK_TILES`              `shrink_cost`
``split`` of K     `SHARES`                    `shares_of_k`, `shrink_cost`
``block_k``        32, 64, 128, 256            `depth`
expand tile        `EXPAND_TILES`              `expand_cost`
columns at once    whole tiles                 `tiles_per_program`
``block_r``        16 to 256                   rank
=================  ==========================  ==============================================

A cost is in bytes: what one multiprocessor could have read meanwhile. The numbers in it were fitted to about 3,000
launches timed on an H100 (docs/results/gpu.md), whose best they miss by 3 % on average. Sizes, strides, the split of
shrink and the chunk of columns that one program walks are run-time arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch

from lora_compat.kernels.batch import TokenBatch

SHARES = (1, 2, 3, 4, 5, 6, 8, 11, 13, 16)  # few, for expand is compiled for each
MIN_SHARE = 128  # of K
SHARE_READ = 2  # weight of what an expand program reads of a share
SHRINK_TILES = tuple((m, n) for m in (16, 32, 64, 128) for n in (16, 32, 64, 128, 256) if m * n <= 128 * 128)
# (tokens, columns, warps, stages) by block_r; no stages: the next tile is read by hand, the first before the wait.
NARROW = ((16, 64, 4, 0), (16, 128, 4, 0), (32, 64, 4, 0), (32, 128, 4, 0), (64, 64, 4, 0), (64, 128, 4, 0))
EXPAND_TILES = {
    16: NARROW,
    32: NARROW,
    64: NARROW,
    128: ((16, 128, 4, 0), (32, 64, 4, 0), (64, 64, 4, 0), (64, 64, 4, 3), (128, 64, 8, 3)),
    256: ((16, 64, 4, 3), (16, 128, 4, 2), (32, 64, 4, 3)),
}


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
    launches = shrink_launches(groups, slices * rank, k_size, wide, programs)
    return min(launches, key=lambda launch: shrink_cost(launch, groups, slices, rank, k_size, programs))


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
                block_k = 32 if wide else depth(block_m * block_n, k_size // split)
                yield ShrinkLaunch(block_m, block_n, block_k, split, num_warps, num_stages=4)


def shrink_cost(
    launch: ShrinkLaunch, groups: tuple[int, ...], slices: int, rank: int, k_size: int, programs: int
) -> float:
    """What its busiest multiprocessor reads, multiplies and starts, and what is written for expand to add up."""
    tokens, tiles = sum(groups), max(1, token_tiles(groups, launch.block_m))
    columns, share = slices * rank, -(-k_size // launch.split)
    column_tiles = -(-columns // launch.block_n)
    rows = min(launch.block_m, tokens / tiles)
    turns = tiles * column_tiles * launch.split / programs
    if turns < 2:  # two programs share a multiprocessor, not quite at half the speed
        turns = 1.0 if turns <= 1 else 1.1 + 0.3 * turns
    work = 20_000 + 2 * share * (rows + columns / column_tiles) + launch.block_m * launch.block_n * share / 128
    written = launch.split * columns * tokens * 32 / programs
    return turns * work + written + SHARE_READ * launch.split * min(rows, 64) * rank


def shares_of_k(k_size: int, tiles: int, programs: int) -> set[int]:
    """Into how many shares K may be split: such that ``tiles`` fill the ``programs`` multiprocessors once or twice."""
    most = max(1, k_size // MIN_SHARE)
    fitting = (max(1, min(most, fill // max(1, tiles))) for fill in (programs, 2 * programs))
    return {max(share for share in SHARES if share <= bound) for bound in fitting}


def depth(tile: int, share: int) -> int:
    """How much of K a program reads at once: the less, the larger its tile."""
    if tile >= 64 * 256:
        return 64
    return 256 if tile <= 512 and share > 384 else 128


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
    for block_m, block_n, num_warps, num_stages in EXPAND_TILES[block_r]:
        if block_m <= tallest and (block_n <= 64 or dtype == torch.bfloat16):
            at_once = programs * (1 if num_stages else 3 if block_m == 16 else 2)  # what their registers allow
            chunk = block_n * tiles_per_program(slice_sizes, block_n, token_tiles(groups, block_m), at_once)
            yield ExpandLaunch(block_m, block_n, block_r, chunk, num_warps, num_stages)


def expand_cost(
    launch: ExpandLaunch,
    groups: tuple[int, ...],
    slice_sizes: tuple[int, ...],
    rank: int,
    split: int,
    programs: int,
) -> float:
    """What the programs of one multiprocessor read one after the other: shares of hidden values, then B and y."""
    tiles = max(1, token_tiles(groups, launch.block_m))
    rows = min(launch.block_m, sum(groups) / tiles)
    turns = -(-tiles * sum(-(-size // launch.chunk) for size in slice_sizes) // programs)
    steps = min(launch.chunk, max(slice_sizes)) / launch.block_n
    product = launch.block_m * launch.block_n * power_of_two(rank, 16, 4096) / 5
    step = launch.block_n * (4 * rows + 2 * rank) + product + 8_000
    return turns * (2_000 + split * rows * rank * 4 + steps * step)


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
