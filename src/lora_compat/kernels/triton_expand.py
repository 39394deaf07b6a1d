"""The expand kernel: ``output += scaling · h · Bᵀ`` of every token with its own slot's B, in place."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.launch import ExpandLaunch, expand_launch
from lora_compat.kernels.triton_dot import dot_thirds, thirds
from lora_compat.kernels.triton_memory import sum_of_shares
from lora_compat.kernels.triton_single import expand_single_kernel


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


@triton.jit  # type: ignore[untyped-decorator]
def expand_kernel(  # type: ignore[no-untyped-def]
    partial, lora_b, scaling, output, tile_slots, tile_tokens, chunks,
    chunks_total, rank,
    stride_hs, stride_ht, stride_hl, stride_hr, stride_bs, stride_bn, stride_br,
    stride_s, stride_ot, stride_on,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
    RANK_FITS: tl.constexpr, ALIGNED: tl.constexpr, EIGHTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """``output[t, n] += Σ_r (scaling[slot(t)] · Σ_s partial[s, t, l(n), r]) · B[slot(t), n, r]``.

    partial is ``[split, tokens, slices, rank]`` float32, B ``[slots, columns, rank]``, scaling ``[slots]``, output
    ``[tokens, columns]``, all of any strides. Any rank: what ``BLOCK_R`` does not hold is read again for every tile.
    """
    if EIGHTS:  # the compiler knows of multiples of 16 by itself
        rank, stride_bn, stride_ht, stride_hl = eights(rank), eights(stride_bn), eights(stride_ht), eights(stride_hl)
    slot, token, slice_index, first, end = place_of(tile_slots, tile_tokens, chunks, chunks_total, BLOCK_M, ALIGNED)
    has_token = (token >= 0)[:, None]
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    hidden_rows = partial + slice_index * stride_hl + token[:, None] * stride_ht
    weight_rows = lora_b + slot * stride_bs + r[:, None] * stride_br
    output_rows = output + token[:, None] * stride_ot

    # What the shrink kernel does not write is on its way before we wait for that kernel.
    n = (first + tl.arange(0, BLOCK_N)).to(tl.int64)[None, :]
    has_rank = (r < rank)[:, None]
    weights = tl.load(weight_rows + n * stride_bn, mask=has_rank & (n < end), other=0.0)
    base = tl.load(output_rows + n * stride_on, mask=has_token & (n < end), other=0.0)
    factor = tl.load(scaling + slot * stride_s).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    has_hidden = has_token & (r < rank)[None, :]
    hidden = factor * sum_of_shares(hidden_rows + r[None, :] * stride_hr, stride_hs, has_hidden, SPLIT)
    high, middle, low = thirds(hidden, weights.dtype)

    for _ in tl.range(first, end, BLOCK_N, num_stages=1):
        here, weights_here, base_here = n, weights, base
        n += BLOCK_N  # the next tile is on its way while this one is multiplied
        weights = tl.load(weight_rows + n * stride_bn, mask=has_rank & (n < end), other=0.0)
        base = tl.load(output_rows + n * stride_on, mask=has_token & (n < end), other=0.0)
        total = dot_thirds(high, middle, low, weights_here, base_here.to(tl.float32))
        if not RANK_FITS:
            for more in tl.range(BLOCK_R, rank, BLOCK_R, num_stages=1):
                inside = (more + r < rank)[:, None] & (here < end)
                more_weights = tl.load(weight_rows + more * stride_br + here * stride_bn, mask=inside, other=0.0)
                has_hidden = has_token & (more + r < rank)[None, :]
                hidden_here = hidden_rows + (more + r)[None, :] * stride_hr
                hidden = factor * sum_of_shares(hidden_here, stride_hs, has_hidden, SPLIT)
                more_high, more_middle, more_low = thirds(hidden, weights.dtype)
                total = dot_thirds(more_high, more_middle, more_low, more_weights, total)
        tl.store(output_rows + here * stride_on, total, mask=has_token & (here < end))


@triton.jit  # type: ignore[untyped-decorator]
def expand_staged_kernel(  # type: ignore[no-untyped-def]
    partial, lora_b, scaling, output, tile_slots, tile_tokens, chunks,
    chunks_total, rank,
    stride_hs, stride_ht, stride_hl, stride_hr, stride_bs, stride_bn, stride_br,
    stride_s, stride_ot, stride_on,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
    STAGES: tl.constexpr, ALIGNED: tl.constexpr, EIGHTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`expand_kernel` for a rank that ``BLOCK_R`` holds: Triton keeps ``STAGES`` tiles of B and y on their way."""
    if EIGHTS:  # the compiler knows of multiples of 16 by itself
        rank, stride_bn, stride_ht, stride_hl = eights(rank), eights(stride_bn), eights(stride_ht), eights(stride_hl)
    slot, token, slice_index, first, end = place_of(tile_slots, tile_tokens, chunks, chunks_total, BLOCK_M, ALIGNED)
    has_token = (token >= 0)[:, None]
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    has_rank = (r < rank)[:, None]
    hidden_rows = partial + slice_index * stride_hl + token[:, None] * stride_ht
    weight_rows = lora_b + slot * stride_bs + r[:, None] * stride_br
    output_rows = output + token[:, None] * stride_ot
    factor = tl.load(scaling + slot * stride_s).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    has_hidden = has_token & (r < rank)[None, :]
    hidden = factor * sum_of_shares(hidden_rows + r[None, :] * stride_hr, stride_hs, has_hidden, SPLIT)
    high, middle, low = thirds(hidden, lora_b.dtype.element_ty)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)[None, :]
        weights = tl.load(weight_rows + n * stride_bn, mask=has_rank & (n < end), other=0.0)
        base = tl.load(output_rows + n * stride_on, mask=has_token & (n < end), other=0.0)
        total = dot_thirds(high, middle, low, weights, base.to(tl.float32))
        tl.store(output_rows + n * stride_on, total, mask=has_token & (n < end))


@lru_cache(maxsize=256)
def column_chunks(slice_sizes: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """``[chunks, 3]`` int32: (slice, first column, end); no chunk crosses from one slice into the next."""
    rows, begin = [], 0
    for index, columns in enumerate(slice_sizes):
        end = begin + columns
        rows += [(index, first, min(first + size, end)) for first in range(begin, end, size)]
        begin = end
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
    launch: ExpandLaunch | None = None,
) -> None:
    """Adds ``partial`` ``[split, tokens, slices, rank]`` times B to ``output`` ``[tokens, Σ slice_sizes]``.

    ``dependent`` says that the kernel launched just before is the shrink that makes ``partial``. ``launch`` is
    `expand_launch`'s choice unless given.
    """
    rank = lora_b.shape[2]
    launch = launch or expand_launch(batch, slice_sizes, rank, lora_b.dtype, len(partial))
    tiles = batch.tiles(launch.block_m)
    chunks = column_chunks(slice_sizes, launch.chunk, output.device)
    grid = (len(tiles.slots) * len(chunks),)
    if grid[0]:
        how: dict[str, object] = {"launch_pdl": True} if dependent else {}
        kernel = expand_single_kernel
        if launch.block_m > 1:
            kernel = expand_staged_kernel if launch.num_stages else expand_kernel
            how |= {"STAGES": launch.num_stages} if launch.num_stages else {"RANK_FITS": rank <= launch.block_r}
            strides = (*partial.stride()[1:3], lora_b.stride(1))
            how["BLOCK_M"] = launch.block_m
            how["ALIGNED"] = all(size % 16 == 0 for size in slice_sizes)
            how["EIGHTS"] = rank % 16 == 8 and all(stride % 8 == 0 for stride in strides)
        kernel[grid](
            partial, lora_b, scaling, output, tiles.slots, tiles.tokens, chunks,
            len(chunks), rank,
            *partial.stride(), *lora_b.stride(), *scaling.stride(), *output.stride(),
            SPLIT=len(partial), BLOCK_N=launch.block_n, BLOCK_R=launch.block_r,
            PDL=dependent, num_warps=launch.num_warps, **how,
        )  # fmt: skip
