"""The expand kernel: ``output += scaling · h · Bᵀ`` of every token with its own slot's B, in place."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.launch import ExpandLaunch, expand_launch
from lora_compat.kernels.triton_dot import dot_with_float32


@triton.jit  # type: ignore[untyped-decorator]
def sum_of_shares(pointer, stride_share, mask, SPLIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The hidden tile: its partial sums added in the order of their shares, which keeps the bits."""
    hidden = tl.load(pointer, mask=mask, other=0.0)
    for _ in tl.static_range(SPLIT - 1):
        pointer += stride_share
        hidden += tl.load(pointer, mask=mask, other=0.0)
    return hidden


@triton.jit  # type: ignore[untyped-decorator]
def expand_kernel(  # type: ignore[no-untyped-def]
    partial, lora_b, scaling, output, tile_slots, tile_tokens, column_tiles,
    column_tiles_total, rank,
    stride_hs, stride_ht, stride_hl, stride_hr, stride_bs, stride_bn, stride_br,
    stride_s, stride_ot, stride_on,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One tile of ``output[t, n] += scaling[slot(t)] · Σ_r (Σ_s partial[s, t, l(n), r]) · B[slot(t), n, r]``.

    partial ``[split, tokens, slices, rank]`` float32, B ``[slots, columns, rank]``, scaling ``[slots]``,
    output ``[tokens, columns]``, any strides. ``column_tiles[i]`` is (slice, first column, end) of tile i.
    """
    tile = tl.program_id(0) // column_tiles_total
    column_tile = column_tiles + 3 * (tl.program_id(0) % column_tiles_total)
    slot = tl.load(tile_slots + tile).to(tl.int64)
    token = tl.load(tile_tokens + tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    slice_index = tl.load(column_tile).to(tl.int64)
    column = tl.load(column_tile + 1) + tl.arange(0, BLOCK_N)
    has_column = column < tl.load(column_tile + 2)
    has_token = (token >= 0)[:, None]
    column = column.to(tl.int64)
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    has_rank = r < rank

    hidden_tile = partial + token[:, None] * stride_ht + slice_index * stride_hl + r[None, :] * stride_hr
    b_tile = lora_b + slot * stride_bs + column[None, :] * stride_bn + r[:, None] * stride_br
    target = output + token[:, None] * stride_ot + column[None, :] * stride_on
    inside = has_token & has_column[None, :]

    # What the shrink kernel does not write is on its way before we wait for that kernel.
    weights = tl.load(b_tile, mask=has_rank[:, None] & has_column[None, :], other=0.0)
    base = tl.load(target, mask=inside, other=0.0)
    factor = tl.load(scaling + slot * stride_s).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()

    delta = tl.full((BLOCK_M, BLOCK_N), 0.0, dtype=tl.float32)
    hidden = sum_of_shares(hidden_tile, stride_hs, has_token & has_rank[None, :], SPLIT)
    delta = dot_with_float32(hidden, weights, delta)
    for start in tl.range(BLOCK_R, rank, BLOCK_R, num_stages=1):  # buffers for every share would not fit
        has_rank = start + r < rank
        hidden_tile += BLOCK_R * stride_hr
        b_tile += BLOCK_R * stride_br
        weights = tl.load(b_tile, mask=has_rank[:, None] & has_column[None, :], other=0.0)
        hidden = sum_of_shares(hidden_tile, stride_hs, has_token & has_rank[None, :], SPLIT)
        delta = dot_with_float32(hidden, weights, delta)
    tl.store(target, base.to(tl.float32) + factor * delta, mask=inside)


@lru_cache(maxsize=256)
def column_tiles(slice_sizes: tuple[int, ...], block_n: int, device: torch.device) -> Tensor:
    """``[tiles, 3]`` int32: (slice, first column, end of the slice); no tile crosses into the next slice."""
    rows, begin = [], 0
    for index, size in enumerate(slice_sizes):
        rows += [(index, first, begin + size) for first in range(begin, begin + size, block_n)]
        begin += size
    return torch.tensor(rows, dtype=torch.int32, device=device).view(-1, 3)


def launch_expand(
    partial: Tensor,
    lora_b: Tensor,
    scaling: Tensor,
    batch: TokenBatch,
    output: Tensor,
    slice_sizes: tuple[int, ...],
    *,
    dependent: bool = False,
) -> None:
    """Adds ``partial`` ``[split, tokens, slices, rank]`` times B to ``output`` ``[tokens, Σ slice_sizes]``.

    ``dependent`` says that the kernel launched just before is the shrink that makes ``partial``.
    """
    rank = lora_b.shape[2]
    launch: ExpandLaunch = expand_launch(batch, rank, lora_b.dtype)
    tiles = batch.tiles(launch.block_m)
    columns = column_tiles(slice_sizes, launch.block_n, output.device)
    grid = (len(tiles.slots) * len(columns),)
    if grid[0]:
        options = {"launch_pdl": True} if dependent else {}
        expand_kernel[grid](
            partial, lora_b, scaling, output, tiles.slots, tiles.tokens, columns,
            len(columns), rank,
            *partial.stride(), *lora_b.stride(), *scaling.stride(), *output.stride(),
            SPLIT=partial.shape[0], BLOCK_M=launch.block_m, BLOCK_N=launch.block_n, BLOCK_R=launch.block_r,
            PDL=dependent, num_warps=launch.num_warps, **options,
        )  # fmt: skip
