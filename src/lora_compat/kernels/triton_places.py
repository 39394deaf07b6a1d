"""Where an expand kernel's program works: its tile of tokens and its columns."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def place_of(  # type: ignore[no-untyped-def]
    tile_slots, tile_tokens, chunks, chunks_total,
    BLOCK_M: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """A program's slot, tokens ``[BLOCK_M]``, slice, first column and end: it serves one tile of tokens and one chunk
    of columns, a tile of columns at a time.

    ``chunks[i]`` is (slice, first column, end) of chunk i.
    """
    tile = tl.program_id(0) // chunks_total
    chunk = chunks + 3 * (tl.program_id(0) % chunks_total)
    slot = tl.load(tile_slots + tile).to(tl.int64)
    token = tl.load(tile_tokens + tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    slice_index = tl.load(chunk).to(tl.int64)
    first = tl.load(chunk + 1)
    end = tl.load(chunk + 2)
    if ALIGNED:  # else the compiler would read and write the output one element at a time
        first = tl.multiple_of(first, 16)
        end = tl.multiple_of(end, 16)
    return slot, token, slice_index, first, end


@triton.jit
def eights(value):  # type: ignore[no-untyped-def]
    """``value``, a multiple of 8, as one that the compiler knows to be: else it would read one element at a time."""
    return value // 8 * 8
