"""Launch parameters of the Triton kernels: a small, stated space, and what a launch of it costs.

=================  ==========================  ==============================================
parameter          values                      chosen by
=================  ==========================  ==============================================
shrink tile        `SHRINK_TILES`              `shrink_cost`
``split`` of K     `SHARES`                    `shares_of_k`, `shrink_cost`
``block_k``        32, 64, 128, 256            `depth`
expand tile        `EXPAND_TILES`              `expand_cost`
columns at once    whole tiles                 `expand_cost`, of what fills the GPU 1 to 4 times
``block_r``        16 to 256                   rank
=================  ==========================  ==============================================

A cost is in bytes: what one multiprocessor could have read meanwhile. The numbers in it were fitted to about 3,000
launches timed on an H100 (docs/results/gpu.md), whose best they miss by 5 % on average. Sizes, strides, the split of
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


def shrink_launch(batch: TokenBatch, columns: int, k_size: int, dtype: torch.dtype) -> ShrinkLaunch:
    """The cheapest for ``columns`` = slices × rank."""
    programs = multiprocessors(batch.token_slots.device)
    return _shrink_launch(batch.group_sizes, columns, k_size, dtype == torch.float32, programs)


@lru_cache(maxsize=4096)
def _shrink_launch(
    groups: tuple[int, ...], columns: int, k_size: int, wide: bool, programs: int
) -> ShrinkLaunch:
    tallest = power_of_two(max(groups, default=1), 16, 32 if wide else 128)
    widest = power_of_two(columns, 16, 32 if wide else 256)
    cheapest: tuple[float, ShrinkLaunch] | None = None
    for block_m, block_n in SHRINK_TILES:
        if block_m > tallest or block_n > widest:
            continue
        tiles = token_tiles(groups, block_m) * -(-columns // block_n)
        for split in shares_of_k(k_size, tiles, programs):
            launch = ShrinkLaunch(
                block_m, block_n, 32 if wide else depth(block_m * block_n, k_size // split), split,
                num_warps=8 if block_m * block_n >= 64 * 256 else 4, num_stages=4,
            )  # fmt: skip
            cost = shrink_cost(launch, groups, columns, k_size, programs)
            if cheapest is None or cost < cheapest[0]:
                cheapest = cost, launch
    assert cheapest is not None
    return cheapest[1]


def shrink_cost(
    launch: ShrinkLaunch, groups: tuple[int, ...], columns: int, k_size: int, programs: int
) -> float:
    """What its busiest multiprocessor reads, multiplies and starts, and what is written for expand to add up."""
    tokens, tiles = sum(groups), max(1, token_tiles(groups, launch.block_m))
    column_tiles, share = -(-columns // launch.block_n), -(-k_size // launch.split)
    rows = min(launch.block_m, tokens / tiles)
    turns = tiles * column_tiles * launch.split / programs
    if turns < 2:  # two programs share a multiprocessor, not quite at half the speed
        turns = 1.0 if turns <= 1 else 1.1 + 0.3 * turns
    work = 20_000 + 2 * share * (rows + columns / column_tiles) + launch.block_m * launch.block_n * share / 128
    return turns * work + launch.split * columns * tokens * 8 / programs + launch.split * rows * columns / 2


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
    # Float16 and float32 need registers for their products; more than 256 is walked in steps.
    deepest = {torch.bfloat16: 256, torch.float16: 64, torch.float32: 32}[dtype]
    block_r = power_of_two(rank, 16, deepest if rank <= 256 else min(deepest, 64))
    tallest = power_of_two(max(groups, default=1), 16, 128)
    cheapest: tuple[float, ExpandLaunch] | None = None
    for block_m, block_n, num_warps, num_stages in EXPAND_TILES[block_r]:
        if block_m > tallest or (block_n > 64 and dtype != torch.bfloat16):
            continue
        for chunk in chunks_for(slice_sizes, block_n, token_tiles(groups, block_m), programs):
            launch = ExpandLaunch(block_m, block_n, block_r, chunk, num_warps, num_stages)
            cost = expand_cost(launch, groups, slice_sizes, rank, split, programs)
            if cheapest is None or cost < cheapest[0]:
                cheapest = cost, launch
    assert cheapest is not None
    return cheapest[1]


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
    product = launch.block_m * launch.block_n * power_of_two(rank, 16, 4096) / 10
    step = launch.block_n * (4 * rows + 2 * rank) + product + 8_000
    return turns * (2_000 + split * rows * rank * 4 + steps * step)


def chunks_for(slice_sizes: tuple[int, ...], block_n: int, tiles: int, programs: int) -> Iterator[int]:
    """How many columns a program may walk so that the GPU is filled once, twice, four times, or as often as it goes."""
    for fill in (programs, 2 * programs, 4 * programs, 100 * programs):
        yield block_n * tiles_per_program(slice_sizes, block_n, tiles, fill)


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
