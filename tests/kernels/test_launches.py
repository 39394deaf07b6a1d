"""Which launches are chosen, and that each launch of the stated space gives the same result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import CANARY, DEVICE, ON_GPU, KernelCase, bits, dense_expand, dense_shrink, operands, token_scaling
from planted import all_but_the_last_share, place_one_column_on, two_thirds

from lora_compat.kernels import NO_ADAPTER, TokenBatch, triton_expand, triton_ops, triton_single, triton_walked
from lora_compat.kernels.expand_launches import (
    EXPAND_TILES,
    SINGLE_EXPAND,
    STEP,
    ExpandLaunch,
    expand_launch,
    walked_launch,
    walks_the_rank,
)
from lora_compat.kernels.shrink_launches import (
    MIN_SHARE,
    SHARES,
    SHRINK_TILES,
    SINGLE_TILE,
    ShrinkLaunch,
    shares_of_k,
    shrink_launch,
)
from lora_compat.kernels.triton_expand import launch_expand
from lora_compat.kernels.triton_shrink import launch_shrink

H100 = 132  # multiprocessors


@pytest.mark.parametrize(
    ("tiles", "shares"),
    [(1, {13, 16}), (10, {11, 13, 16}), (40, {2, 3, 5, 6}), (60, {1, 2, 3, 4}), (100, {1, 2}), (500, {1})],
)
def test_shares_of_k_fill_the_gpu_once_or_twice_or_are_one_fewer(tiles: int, shares: set[int]) -> None:
    assert shares_of_k(100 * MIN_SHARE, tiles, H100) == shares


def test_no_share_of_k_is_so_short_that_starting_costs_more() -> None:
    assert max(shares_of_k(2 * MIN_SHARE, 1, H100)) == 2
    assert shares_of_k(MIN_SHARE - 1, 1, H100) == {1}


def test_groups_of_a_few_tokens_get_small_tiles_beside_a_large_group() -> None:
    crowd = TokenBatch.of([0] * 40 + [slot for slot in range(1, 60) for _ in range(3)])
    assert shrink_launch(crowd, 3, 8, 5120, torch.bfloat16).block_m == 16
    assert expand_launch(crowd, (4096, 1024, 1024), 8, torch.bfloat16).block_m == 16


def test_tokens_that_hardly_share_a_slot_are_multiplied_one_by_one() -> None:
    decoding = TokenBatch.of([0, 1, 1, 2, NO_ADAPTER, 3])
    assert shrink_launch(decoding, 1, 16, 4096, torch.bfloat16).block_m == 1
    blocks = {rank: expand_launch(decoding, (4096,), rank, torch.bfloat16).block_m for rank in (8, 16, 64, 256, 257)}
    assert blocks == {8: 1, 16: 16, 64: 1, 256: 1, 257: 16}
    crowd = TokenBatch.of([0] * 9 + list(range(1, 60)))
    assert shrink_launch(crowd, 1, 16, 4096, torch.bfloat16).block_m == 16


@pytest.mark.parametrize("tokens", [1, 3, 200])
@pytest.mark.parametrize("k_size", [1, 64, 1030, 5120, 28672, 65536])
def test_a_tile_of_one_token_holds_its_share_of_k_in_registers(tokens: int, k_size: int) -> None:
    launch = shrink_launch(TokenBatch.of(range(tokens)), 3, 16, k_size, torch.bfloat16)
    assert launch.block_m == 1
    assert launch.block_n * launch.block_k <= SINGLE_TILE
    assert launch.block_k * launch.split >= k_size
    assert launch.split in SHARES


@pytest.mark.parametrize("rank", [1, 16, 100, 256, 257, 1024])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_rank_and_dtype_has_a_launch(rank: int, dtype: torch.dtype) -> None:
    batch = TokenBatch.of([0] * 300)
    launch = expand_launch(batch, (64, 32), rank, dtype, max(SHARES))
    assert launch.block_r >= rank or launch == walked_launch(batch.group_sizes, dtype)
    assert shrink_launch(batch, 2, rank, 4096, dtype).split in SHARES


# Nineteen tokens of one slot, one of another, two without; ranks and columns that fill no tile.
SLOTS = (0, NO_ADAPTER, *(0,) * 18, 2, NO_ADAPTER)


def small_case(rank: int, dtype: torch.dtype, columns: tuple[int, ...]) -> KernelCase:
    layouts = ("padded rows",) * 4
    return KernelCase(SLOTS, 3, 70, rank, columns, 8, 8, dtype, layouts, seed=rank)  # type: ignore[arg-type]


SERVED = [token for token, slot in enumerate(SLOTS) if slot != NO_ADAPTER]


def expand_is_right(case: KernelCase, launch: ExpandLaunch) -> bool:
    """Whether shrink, then expand by ``launch`` give the dense result bit for bit, and write nothing else.

    The output is float32, which shows what 16 bits would hide.
    """
    tensors = operands(case, "signed")
    hidden = dense_shrink(tensors.x, tensors.lora_a, SLOTS)
    expected = 1 + token_scaling(tensors, case) * dense_expand(hidden, tensors.lora_b, case)
    frame = torch.full((len(SLOTS) + 2, case.columns + 5), CANARY, device=DEVICE)
    target = frame[1:-1, 2 : 2 + case.columns]
    target[SERVED] = 1
    before = frame.clone()
    partial = launch_shrink(tensors.x, tensors.lora_a, tensors.batch, launch=ShrinkLaunch(16, 16, 64, 2, 4, 3))
    launch_expand(partial, tensors.lora_b, tensors.scaling, tensors.batch, target, case.slice_sizes, launch=launch)
    right = torch.equal(target[SERVED].double(), expected[SERVED])
    target[SERVED] = 1
    return right and torch.equal(bits(frame), bits(before))


def representative(tiles: list[Any]) -> list[Any]:
    """The first and the last, and those between them in a thorough run; all where they are compiled."""
    between = [pytest.param(*tile, marks=[] if ON_GPU else pytest.mark.thorough) for tile in tiles[1:-1]]
    return [tiles[0], *between, tiles[-1]]


@pytest.mark.parametrize(("block_m", "block_n"), [(1, 4), *representative(list(SHRINK_TILES))])
def test_every_shrink_tile_gives_the_dense_product(block_m: int, block_n: int) -> None:
    case = small_case(rank=11, dtype=torch.bfloat16, columns=(16, 8, 8))
    tensors = operands(case, "signed")
    launch = ShrinkLaunch(block_m, block_n, 64, 2, 8 if block_m * block_n >= 64 * 256 else 4, 3)
    hidden = launch_shrink(tensors.x, tensors.lora_a, tensors.batch, launch=launch)[:, SERVED].sum(dim=0)
    assert torch.equal(hidden.double(), dense_shrink(tensors.x, tensors.lora_a, SLOTS)[SERVED])


@pytest.mark.parametrize(
    ("rank", "tile"),
    [
        *(
            one
            for block_r, tiles in EXPAND_TILES.items()
            for one in representative([(block_r - 5, (*tile, block_r)) for tile in tiles])
        ),
        *((STEP + 37, (*tile, 4, 3, STEP)) for tile in ((16, 64), (32, 128), (64, 128))),
        *((block_r - 5, (1, *tile, 0, block_r)) for block_r, tile in SINGLE_EXPAND.items()),
    ],
)
def test_every_expand_tile_adds_the_dense_product_and_writes_nothing_else(
    rank: int, tile: tuple[int, int, int, int, int]
) -> None:
    block_m, block_n, num_warps, num_stages, block_r = tile
    case = small_case(rank, torch.bfloat16, (block_n + 24, 8))
    chunk = block_n if block_m == 1 or block_r < rank else 2 * block_n
    assert expand_is_right(case, ExpandLaunch(block_m, block_n, block_r, chunk, num_warps, num_stages))


WIDE = replace(small_case(11, torch.bfloat16, (88, 8)), k=700)  # hidden values of more than eight bits


@pytest.mark.skipif(ON_GPU, reason="a compiled kernel keeps the functions that it was compiled with")
@pytest.mark.parametrize("num_stages", [0, 3], ids=["by hand", "staged"])
@pytest.mark.parametrize(
    ("name", "planted"),
    [("sum_of_shares", all_but_the_last_share), ("thirds", two_thirds), ("place_of", place_one_column_on)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bug_planted_in_either_expand_kernel_is_caught(
    name: str, planted: object, num_stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = ExpandLaunch(16, 64, 16, 128, 4, num_stages)
    monkeypatch.setattr(triton_expand, name, planted)
    assert not expand_is_right(WIDE, launch)


@pytest.mark.parametrize("num_stages", [0, 3], ids=["by hand", "staged"])
def test_either_expand_kernel_is_right_of_what_shows_those_bugs(num_stages: int) -> None:
    assert expand_is_right(WIDE, ExpandLaunch(16, 64, 16, 128, 4, num_stages))


@pytest.mark.skipif(ON_GPU, reason="a compiled kernel keeps the functions that it was compiled with")
def test_a_share_forgotten_for_a_single_token_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    case, launch = small_case(11, torch.bfloat16, (40, 8)), ExpandLaunch(1, 32, 16, 32, 4, 0)
    assert expand_is_right(case, launch)
    monkeypatch.setattr(triton_single, "sum_of_shares", all_but_the_last_share)
    assert not expand_is_right(case, launch)


@pytest.mark.skipif(ON_GPU, reason="a compiled kernel keeps the functions that it was compiled with")
@pytest.mark.parametrize(
    ("name", "planted"),
    [("sum_of_shares", all_but_the_last_share), ("thirds", two_thirds), ("place_of", place_one_column_on)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bug_planted_where_the_rank_is_walked_is_caught(
    name: str, planted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, launch = replace(WIDE, rank=STEP + 11), ExpandLaunch(16, 64, STEP, 64, 4, 3)
    assert expand_is_right(case, launch)
    monkeypatch.setattr(triton_walked, name, planted)
    assert not expand_is_right(case, launch)


@pytest.mark.parametrize(("rank", "walked"), [(64, False), (128, True), (256, True), (257, True)])
def test_full_tiles_that_fill_the_gpu_walk_the_rank_and_others_only_what_none_holds(rank: int, walked: bool) -> None:
    assert walks_the_rank((320,), (7680,), rank, torch.bfloat16, H100) == walked
    assert walks_the_rank((9, 9), (7680,), rank, torch.bfloat16, H100) == (rank > 256)
    assert walks_the_rank((320,), (1024,), rank, torch.bfloat16, H100) == (rank > 256)


@pytest.mark.parametrize("rank", [8, 24])
@pytest.mark.parametrize("columns", [(16, 16), (24, 8)], ids=["aligned", "not aligned"])
def test_ranks_that_are_multiples_of_eight_alone_give_the_dense_product(rank: int, columns: tuple[int, ...]) -> None:
    assert expand_is_right(small_case(rank, torch.bfloat16, columns), ExpandLaunch(16, 64, 32, 64, 4, 0))


@pytest.mark.parametrize("rank", [16, 40], ids=["two kernels", "three"])
def test_calls_in_a_row_read_what_the_call_before_wrote(rank: int) -> None:
    """Kernels start before the one ahead ends: each call's x is the output of the call before, on one stream."""
    case = replace(small_case(rank, torch.float32, (512,)), k=512, offset=0, tail=0, layouts=("contiguous",) * 4)
    tensors = operands(case, "real")
    results = []
    for wait in (False, True):
        x, y = tensors.x.clone(), tensors.output.clone()
        lora_a = tensors.lora_a * 2**-9
        for _ in range(20 if ON_GPU else 3):
            triton_ops.add_lora(x, lora_a, tensors.lora_b, tensors.scaling, tensors.batch, y, slice_sizes=(512,))
            x, y = y, x
            if wait and ON_GPU:
                torch.cuda.synchronize()
        results.append(bits(y))
    assert torch.equal(*results)


def test_a_batch_is_cut_where_its_device_is() -> None:
    tiles = TokenBatch.of(SLOTS, DEVICE).tiles(16)
    assert tiles.tokens.device.type == DEVICE.type
    assert tiles.slots.tolist() == [0, 0, 2]
