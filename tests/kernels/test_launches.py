"""How K is split over the multiprocessors of a GPU."""

from __future__ import annotations

import pytest

from lora_compat.kernels.launch import MAX_SPLIT, MIN_SHARE, shares_of_k

H100 = 132  # multiprocessors


@pytest.mark.parametrize(
    ("tiles", "small", "shares"),
    [
        (1, False, MAX_SPLIT),
        (40, False, 3),
        (60, True, 2),
        (74, False, 1),
        (74, True, 3),
        (132, True, 1),
        (500, True, 1),
    ],
)
def test_shares_of_k_fill_the_gpu_once_and_small_tiles_twice_where_once_is_too_few(
    tiles: int, small: bool, shares: int
) -> None:
    assert shares_of_k(8 * MIN_SHARE, tiles, H100, small=small) == shares


def test_no_share_of_k_is_so_short_that_starting_costs_more() -> None:
    assert shares_of_k(2 * MIN_SHARE, 1, H100, small=True) == 2
    assert shares_of_k(MIN_SHARE - 1, 1, H100, small=True) == 1
