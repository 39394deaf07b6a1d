"""Which launches are chosen, and that each launch of the stated space gives the same result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import DEVICE, KernelCase, Operands, dense_expand, dense_shrink, operands, token_scaling

from lora_compat.kernels import NO_ADAPTER, TokenBatch
from lora_compat.kernels.launch import (
    EXPAND_TILES,
    MIN_SHARE,
    SHARES,
    SHRINK_TILES,
    ExpandLaunch,
    ShrinkLaunch,
    expand_launch,
    shares_of_k,
    shrink_launch,
)
from lora_compat.kernels.triton_expand import launch_expand
from lora_compat.kernels.triton_shrink import launch_shrink

H100 = 132  # multiprocessors


@pytest.mark.parametrize(
    ("tiles", "shares"),
    [(1, {16}), (10, {13, 16}), (40, {3, 6}), (60, {2, 4}), (100, {1, 2}), (500, {1})],
)
def test_shares_of_k_fill_the_gpu_once_or_twice(tiles: int, shares: set[int]) -> None:
    assert shares_of_k(100 * MIN_SHARE, tiles, H100) == shares


def test_no_share_of_k_is_so_short_that_starting_costs_more() -> None:
    assert shares_of_k(2 * MIN_SHARE, 1, H100) == {2}
    assert shares_of_k(MIN_SHARE - 1, 1, H100) == {1}


def test_groups_of_a_few_tokens_get_small_tiles_beside_a_large_group() -> None:
    crowd = TokenBatch.of([0] * 40 + [slot for slot in range(1, 60) for _ in range(3)])
    assert shrink_launch(crowd, 24, 5120, torch.bfloat16).block_m == 16
    assert expand_launch(crowd, (4096, 1024, 1024), 8, torch.bfloat16).block_m == 16


@pytest.mark.parametrize("rank", [1, 16, 100, 256, 257, 1024])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_rank_and_dtype_has_a_launch(rank: int, dtype: torch.dtype) -> None:
    batch = TokenBatch.of([0] * 300)
    launch = expand_launch(batch, (64, 32), rank, dtype, max(SHARES))
    assert launch.block_r >= rank or launch.num_stages == 0  # staged tiles hold the whole rank
    assert shrink_launch(batch, 2 * rank, 4096, dtype).split in SHARES


# Nineteen tokens of one slot, one of another, two without; ranks and columns that fill no tile.
SLOTS = (0, NO_ADAPTER, *(0,) * 18, 2, NO_ADAPTER)


def small_case(rank: int, dtype: torch.dtype, columns: tuple[int, ...]) -> KernelCase:
    layouts = ("padded rows",) * 4
    return KernelCase(SLOTS, 3, 70, rank, columns, 8, 8, dtype, layouts, seed=rank)  # type: ignore[arg-type]


def exact(tensors: Operands, case: KernelCase) -> torch.Tensor:
    hidden = dense_shrink(tensors.x, tensors.lora_a, case.token_slots)
    columns = slice(case.offset, case.offset + case.columns)
    delta = token_scaling(tensors, case) * dense_expand(hidden, tensors.lora_b, case)
    return tensors.output[:, columns].double() + delta


@pytest.mark.parametrize(("block_m", "block_n"), SHRINK_TILES)
def test_every_shrink_tile_gives_the_dense_product(block_m: int, block_n: int) -> None:
    case = small_case(rank=11, dtype=torch.bfloat16, columns=(16, 8, 8))
    tensors = operands(case, "signed")
    launch = ShrinkLaunch(block_m, block_n, 64, 2, 8 if block_m * block_n >= 64 * 256 else 4, 3)
    hidden = launch_shrink(tensors.x, tensors.lora_a, tensors.batch, launch=launch).sum(dim=0)
    served = [token for token, slot in enumerate(SLOTS) if slot != NO_ADAPTER]
    assert torch.equal(hidden[served].double(), dense_shrink(tensors.x, tensors.lora_a, SLOTS)[served])


@pytest.mark.parametrize(
    ("block_r", "tile"), [(block_r, tile) for block_r, tiles in EXPAND_TILES.items() for tile in dict.fromkeys(tiles)]
)
def test_every_expand_tile_adds_the_dense_product_and_writes_nothing_else(
    block_r: int, tile: tuple[int, int, int, int]
) -> None:
    block_m, block_n, num_warps, num_stages = tile
    case = small_case(rank=block_r - 5, dtype=torch.bfloat16, columns=(block_n + 24, 8))
    tensors = operands(case, "positive" if block_r < 64 else "signed")
    columns = slice(case.offset, case.offset + case.columns)
    expected, before = exact(tensors, case), tensors.frame.clone()
    partial = launch_shrink(tensors.x, tensors.lora_a, tensors.batch)
    target = tensors.output[:, columns]
    launch = ExpandLaunch(block_m, block_n, block_r, 2 * block_n, num_warps, num_stages)
    launch_expand(
        partial, tensors.lora_b, tensors.scaling, tensors.batch, target, case.slice_sizes, launch=launch
    )
    served = [token for token, slot in enumerate(SLOTS) if slot != NO_ADAPTER]
    rounding = 2.0**-7 * expected[served].abs()  # the interpreter cuts
    assert bool(((target[served].double() - expected[served]).abs() <= rounding).all())
    tensors.output[served, columns] = 0
    untouched = replace(tensors, output=before[1:-1, : tensors.output.shape[1]])
    untouched.output[served, columns] = 0
    assert torch.equal(tensors.frame, before)


def test_a_batch_is_cut_where_its_device_is() -> None:
    tiles = TokenBatch.of(SLOTS, DEVICE).tiles(16)
    assert tiles.tokens.device.type == DEVICE.type
    assert tiles.slots.tolist() == [0, 0, 2]
