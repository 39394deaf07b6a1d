"""Expand where a tile does not hold the rank: the shares of K are added up by a kernel of their own, then the rank is
walked in steps, as dense products do it.

A tile that holds a rank of 256 leaves room for one program a multiprocessor, whose loads and products wait for each
other. One that walks it takes a third of the registers, so three programs share a multiprocessor, and each step's
hidden values and B are on their way while earlier ones are multiplied.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.launch import multiprocessors, power_of_two
from lora_compat.kernels.triton_dot import dot_thirds, thirds
from lora_compat.kernels.triton_memory import sum_of_shares
from lora_compat.kernels.triton_places import eights, place_of

COLUMNS = 128  # of slices × rank that a program adds up


@triton.jit  # type: ignore[untyped-decorator]
def expand_walked_kernel(  # type: ignore[no-untyped-def]
    hidden, lora_b, scaling, output, tile_slots, tile_tokens, chunks,
    chunks_total, rank,
    stride_hs, stride_ht, stride_hl, stride_hr, stride_bs, stride_bn, stride_br,
    stride_s, stride_ot, stride_on,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
    STAGES: tl.constexpr, ALIGNED: tl.constexpr, EIGHTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`expand_kernel` of one tile of columns, any rank and one share: the rank is walked by ``BLOCK_R``."""
    if EIGHTS:  # the compiler knows of multiples of 16 by itself
        rank, stride_bn, stride_ht, stride_hl = eights(rank), eights(stride_bn), eights(stride_ht), eights(stride_hl)
    slot, token, slice_index, first, end = place_of(tile_slots, tile_tokens, chunks, chunks_total, BLOCK_M, ALIGNED)
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    n = (first + tl.arange(0, BLOCK_N)).to(tl.int64)[None, :]
    has_token = (token >= 0)[:, None]
    has_column = n < end
    target = output + token[:, None] * stride_ot + n * stride_on
    total = tl.load(target, mask=has_token & has_column, other=0.0).to(tl.float32)
    factor = tl.load(scaling + slot * stride_s).to(tl.float32)
    hidden_rows = hidden + slice_index * stride_hl + token[:, None] * stride_ht + r[None, :] * stride_hr
    weight_rows = lora_b + slot * stride_bs + r[:, None] * stride_br + n * stride_bn
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for begin in tl.range(0, rank, BLOCK_R, num_stages=STAGES):
        inside = begin + r < rank
        here = tl.load(hidden_rows + begin * stride_hr, mask=has_token & inside[None, :], other=0.0)
        weights = tl.load(weight_rows + begin * stride_br, mask=inside[:, None] & has_column, other=0.0)
        high, middle, low = thirds(factor * here, weights.dtype)
        total = dot_thirds(high, middle, low, weights, total)
    tl.store(target, total, mask=has_token & has_column)


@triton.jit(do_not_specialize=["served"])  # type: ignore[untyped-decorator]
def sum_kernel(  # type: ignore[no-untyped-def]
    partial, hidden, tokens, served, columns, stride_s,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLIT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """``hidden[t, c] = Σ_s partial[s, t, c]`` of the ``served`` ``tokens``; shares are ``stride_s`` apart."""
    blocks = tl.cdiv(columns, COLUMNS)
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.load(tokens + row, mask=row < served, other=0).to(tl.int64)
    place = token[:, None] * columns + column[None, :]
    there = (row < served)[:, None] & (column < columns)[None, :]
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tl.store(hidden + place, sum_of_shares(partial + place, stride_s, there, SPLIT), mask=there)


def launch_sum(partial: Tensor, batch: TokenBatch, *, dependent: bool = False) -> Tensor:
    """``partial`` ``[split, tokens, slices, rank]``, contiguous, as one share; of tokens without an adapter nothing.

    ``dependent`` says that the kernel launched just before is the shrink that makes ``partial``.
    """
    columns = partial[0, 0].numel()
    served = batch.tiles(1)
    blocks = triton.cdiv(columns, COLUMNS)
    wanted = batch.adapted * blocks // (4 * multiprocessors(partial.device))
    rows = power_of_two(wanted, 1, 16)
    hidden = partial.new_empty(1, *partial.shape[1:])
    how: dict[str, object] = {"launch_pdl": True} if dependent else {}
    sum_kernel[(triton.cdiv(batch.adapted, rows) * blocks,)](
        partial, hidden, served.tokens, batch.adapted, columns, partial.stride(0),
        ROWS=rows, COLUMNS=COLUMNS, SPLIT=len(partial), PDL=dependent, num_warps=min(rows, 4), **how,
    )  # fmt: skip
    return hidden
