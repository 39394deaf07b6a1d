"""Both kernels for one token at a time: products and sums in float32, without tensor cores.

A tensor core multiplies sixteen tokens or none. Where nearly every token has a slot of its own, as in decoding, the
way of the factors through shared memory takes longer than reading them. Here a program reads its whole tile of A or B
at once, straight into registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lora_compat.kernels.triton_memory import prefetch, sum_of_shares


@triton.jit(do_not_specialize=["split", "column_tiles"])  # type: ignore[untyped-decorator]
def shrink_single_kernel(  # type: ignore[no-untyped-def]
    x, lora_a, partial, tile_slots, tile_tokens,
    tokens_total, columns, rank, k_size, k_share, split, column_tiles,
    stride_xt, stride_xk, stride_as, stride_al, stride_ar, stride_ak,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LINE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`shrink_kernel` of one token, whose share of K ``BLOCK_K`` holds."""
    program = tl.program_id(0)
    share = program % split
    tile = program // split // column_tiles
    column = program // split % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    slot = tl.load(tile_slots + tile).to(tl.int64)
    token = tl.load(tile_tokens + tile).to(tl.int64)
    rows = lora_a + slot * stride_as
    rows += (column // rank).to(tl.int64) * stride_al + (column % rank).to(tl.int64) * stride_ar
    has_column = column < columns
    k_begin = share * k_share
    if PDL:  # the kernel before may still be writing x, and even A: we only ask for it
        rows_there = tl.where(has_column, rows, lora_a + slot * stride_as)
        line = tl.minimum(k_begin + tl.arange(0, BLOCK_K // LINE) * LINE, k_size - 1).to(tl.int64)
        prefetch(rows_there[:, None] + line[None, :] * stride_ak)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    k = k_begin + tl.arange(0, BLOCK_K)
    inside = (tl.arange(0, BLOCK_K) < k_share) & (k < k_size)
    k = k.to(tl.int64)
    there = has_column[:, None] & inside[None, :]
    weights = tl.load(rows[:, None] + k[None, :] * stride_ak, mask=there, other=0.0).to(tl.float32)
    row = tl.load(x + token * stride_xt + k * stride_xk, mask=inside, other=0.0).to(tl.float32)
    hidden = tl.sum(weights * row[None, :], axis=1)
    target = partial + (share.to(tl.int64) * tokens_total + token) * columns + column
    tl.store(target, hidden, mask=has_column)


@triton.jit  # type: ignore[untyped-decorator]
def expand_single_kernel(  # type: ignore[no-untyped-def]
    partial, lora_b, scaling, output, tile_slots, tile_tokens, chunks,
    chunks_total, rank,
    stride_hs, stride_ht, stride_hl, stride_hr, stride_bs, stride_bn, stride_br,
    stride_s, stride_ot, stride_on,
    SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`expand_kernel` of one token and one tile of columns, whose rank ``BLOCK_R`` holds."""
    tile = tl.program_id(0) // chunks_total
    chunk = chunks + 3 * (tl.program_id(0) % chunks_total)
    slot = tl.load(tile_slots + tile).to(tl.int64)
    token = tl.load(tile_tokens + tile).to(tl.int64)
    slice_index = tl.load(chunk).to(tl.int64)
    n = tl.load(chunk + 1) + tl.arange(0, BLOCK_N)
    has_column = n < tl.load(chunk + 2)
    n = n.to(tl.int64)
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    has_rank = r < rank
    # What the shrink kernel does not write is on its way before we wait for that kernel.
    weight_rows = lora_b + slot * stride_bs + n[:, None] * stride_bn
    weights = tl.load(weight_rows + r[None, :] * stride_br, mask=has_column[:, None] & has_rank[None, :], other=0.0)
    target = output + token * stride_ot + n * stride_on
    base = tl.load(target, mask=has_column, other=0.0).to(tl.float32)
    factor = tl.load(scaling + slot * stride_s).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    hidden_row = partial + slice_index * stride_hl + token * stride_ht + r * stride_hr
    hidden = sum_of_shares(hidden_row, stride_hs, has_rank, SPLIT)
    delta = tl.sum(weights.to(tl.float32) * (factor * hidden)[None, :], axis=1)
    tl.store(target, base + delta, mask=has_column)
