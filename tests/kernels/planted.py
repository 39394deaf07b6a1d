"""Bugs to be planted in the expand kernels, interpreted as those are."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def all_but_the_last_share(pointers, stride, mask, SPLIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """`sum_of_shares` without the last one."""
    total = tl.load(pointers, mask=mask, other=0.0)
    for share in tl.static_range(SPLIT - 2):
        total += tl.load(pointers + (share + 1) * stride, mask=mask, other=0.0)
    return total


@triton.jit
def two_thirds(hidden, weights_dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """`thirds` whose low one is the middle one."""
    high = hidden.to(tl.bfloat16)
    middle = (hidden - high.to(tl.float32)).to(tl.bfloat16)
    return high, middle, middle


@triton.jit
def place_one_column_on(  # type: ignore[no-untyped-def]
    tile_slots, tile_tokens, chunks, chunks_total,
    BLOCK_M: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """`place_of` one column too far."""
    tile, chunk = tl.program_id(0) // chunks_total, tl.program_id(0) % chunks_total
    token = tl.load(tile_tokens + tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    first, end = tl.load(chunks + 3 * chunk + 1), tl.load(chunks + 3 * chunk + 2)
    return tl.load(tile_slots + tile).to(tl.int64), token, tl.load(chunks + 3 * chunk).to(tl.int64), first + 1, end + 1
