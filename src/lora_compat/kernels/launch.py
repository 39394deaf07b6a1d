"""Launch parameters of the Triton kernels: a small, stated space, and what a launch of it costs.

=================  ==========================  ==============================================
parameter          values                      chosen by
=================  ==========================  ==============================================
shrink tile        `SHRINK_TILES`              `shrink_cost`
``split`` of K     `SHARES`                    `shares_of_k`, `shrink_cost`
``block_k``        32, 64, 128, 256            `depths`, `shrink_cost`
expand tile        `EXPAND_TILES`              `expand_cost`
columns at once    whole tiles                 `tiles_per_program`, `expand_cost`
``block_r``        16 to 256                   rank; `STEP` where `walks_the_rank`
tile of one token  `SINGLE_EXPAND`             `one_by_one`, `single_shrink_launch`
=================  ==========================  ==============================================

A cost is in bytes: what one multiprocessor could have read meanwhile. The numbers in it were fitted to 7,700 launches
timed on an H200 (docs/results/gpu.md), whose best they miss by 3 to 5 % on average. Sizes, strides, the split of K and
the chunk of columns that one program walks are run-time arguments.
"""

from __future__ import annotations

from functools import lru_cache

import torch


def power_of_two(value: int, low: int, high: int) -> int:
    """The smallest power of two that holds ``value``, kept between ``low`` and ``high``."""
    return min(max(1 << max(value - 1, 0).bit_length(), low), high)


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run at once; the interpreter gets a small number that still makes it split K."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def one_by_one(groups: tuple[int, ...]) -> bool:
    """Whether tokens share slots so little that each is multiplied by itself."""
    most = max(groups, default=1)
    return most <= 2 or (most <= 8 and 2 * sum(groups) <= 3 * len(groups))


def token_tiles(groups: tuple[int, ...], block: int) -> int:
    """How many tiles of ``block`` tokens the groups of one slot each make."""
    return sum(-(-size // block) for size in groups)
