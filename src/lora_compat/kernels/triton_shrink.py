"""The shrink kernel: ``x · Aᵀ`` of every token with its own slot's A, all slices in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.shrink_launches import LINE, ShrinkLaunch, shrink_launch
from lora_compat.kernels.triton_dot import dot
from lora_compat.kernels.triton_memory import prefetch
from lora_compat.kernels.triton_single import shrink_single_kernel

LINE_BYTES = 128


@triton.jit(do_not_specialize=["split", "column_tiles"])  # type: ignore[untyped-decorator]
def shrink_kernel(  # type: ignore[no-untyped-def]
    x, lora_a, partial, tile_slots, tile_tokens,
    tokens_total, columns, rank, k_size, k_share, split, column_tiles,
    stride_xt, stride_xk, stride_as, stride_al, stride_ar, stride_ak,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LINE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One tile of ``partial[s, t, c] = Σ_{k in share s} x[t, k] · A[slot(t), c // rank, c % rank, k]``.

    x ``[tokens, k]`` and A ``[slots, slices, rank, k]`` of one dtype and any strides; partial ``[split,
    tokens, slices · rank]`` float32, contiguous. Only rows of tokens with an adapter are written. ``LINE`` is how
    many elements of x a line of the cache holds.
    """
    program = tl.program_id(0)
    share = program % split
    tile = program // split // column_tiles
    column = program // split % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    slot = tl.load(tile_slots + tile).to(tl.int64)
    token = tl.load(tile_tokens + tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    row_of_a = (column // rank).to(tl.int64) * stride_al + (column % rank).to(tl.int64) * stride_ar
    x_rows = x + token[:, None] * stride_xt
    a_rows = lora_a + slot * stride_as + row_of_a[:, None]
    has_token = (token >= 0)[:, None]
    has_column = (column < columns)[:, None]
    k_begin = share * k_share
    k_end = tl.minimum(k_size, k_begin + k_share)
    if PDL:  # the kernel before may still be writing x, and even A: we only ask for it
        x_there = tl.where(has_token, x_rows, x)
        a_there = tl.where(has_column, a_rows, lora_a + slot * stride_as)
        for start in range(k_begin, tl.minimum(k_end, k_begin + 4 * BLOCK_K), BLOCK_K):
            line = tl.minimum(start + tl.arange(0, BLOCK_K // LINE) * LINE, k_size - 1).to(tl.int64)[None, :]
            prefetch(x_there + line * stride_xk)
            prefetch(a_there + line * stride_ak)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    k = k_begin + tl.arange(0, BLOCK_K).to(tl.int64)
    x_tile = x_rows + k[None, :] * stride_xk
    a_tile = a_rows + k[None, :] * stride_ak
    step = tl.full((), BLOCK_K, dtype=tl.int64)  # times a stride may pass 2³¹

    hidden = tl.full((BLOCK_M, BLOCK_N), 0.0, dtype=tl.float32)
    for start in range(k_begin, k_end, BLOCK_K):
        inside = (start + tl.arange(0, BLOCK_K) < k_end)[None, :]
        rows = tl.load(x_tile, mask=has_token & inside, other=0.0)
        weights = tl.load(a_tile, mask=has_column & inside, other=0.0)
        hidden = dot(rows, tl.trans(weights), hidden)
        x_tile += step * stride_xk
        a_tile += step * stride_ak

    target = partial + (share.to(tl.int64) * tokens_total + token[:, None]) * columns + column[None, :]
    tl.store(target, hidden, mask=has_token & (column < columns)[None, :])


def launch_shrink(
    x: Tensor,
    lora_a: Tensor,
    batch: TokenBatch,
    *,
    zeroed: bool = False,
    dependent: bool = False,
    launch: ShrinkLaunch | None = None,
) -> Tensor:
    """The partial sums ``[split, tokens, slices, rank]``; rows of tokens without an adapter are 0 if ``zeroed``.

    ``dependent`` starts it before the kernel ahead of it ends, whichever that is, and lets a kernel launched next
    with ``launch_pdl`` do the same; that one must wait before it reads.
    ``launch`` is `shrink_launch`'s choice unless given.
    """
    slices, rank, k_size = lora_a.shape[1:]
    columns = slices * rank
    launch = launch or shrink_launch(batch, slices, rank, k_size, x.dtype)
    tiles = batch.tiles(launch.block_m)
    make = torch.zeros if zeroed else torch.empty  # nobody writes a row of a token without an adapter
    partial = make(launch.split, len(batch), slices, rank, dtype=torch.float32, device=x.device)
    column_tiles = triton.cdiv(columns, launch.block_n)
    unit = LINE if launch.block_m == 1 else launch.block_k
    k_share = triton.cdiv(triton.cdiv(k_size, unit), launch.split) * unit
    grid = (len(tiles.slots) * column_tiles * launch.split,)
    if grid[0]:
        how: dict[str, object] = {"launch_pdl": True} if dependent else {}
        kernel = shrink_single_kernel
        if launch.block_m > 1:
            kernel = shrink_kernel
            how["BLOCK_M"] = launch.block_m
        kernel[grid](
            x, lora_a, partial, tiles.slots, tiles.tokens,
            len(batch), columns, rank, k_size, k_share, launch.split, column_tiles,
            *x.stride(), *lora_a.stride(),
            BLOCK_N=launch.block_n, BLOCK_K=launch.block_k,
            LINE=LINE_BYTES // x.element_size(), PDL=dependent,
            num_warps=launch.num_warps, num_stages=launch.num_stages, **how,
        )  # fmt: skip
    return partial
