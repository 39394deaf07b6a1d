"""The expand kernel: ``output += scaling · h · Bᵀ`` of every token with its own slot's B, in place."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.expand_launches import ExpandLaunch, expand_launch
from lora_compat.kernels.triton_dot import dot_thirds, thirds
from lora_compat.kernels.triton_memory import sum_of_shares
from lora_compat.kernels.triton_places import eights, place_of
from lora_compat.kernels.triton_single import expand_single_kernel
from lora_compat.kernels.triton_walked import expand_walked_kernel, launch_sum


@triton.jit  # type: ignore[untyped-decorator]
def expand_kernel(  # type: ignore[no-untyped-def]
    partial, lora_b, scaling, output, tile_slots, tile_tokens, chunks,
    chunks_total, rank,
    stride_hs, stride_ht, stride_hl, stride_hr, stride_bs, stride_bn, stride_br,
    stride_s, stride_ot, stride_on,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
    ALIGNED: tl.constexpr, EIGHTS: tl.constexpr, PDL: tl.constexpr,
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
        kernel, how = expand_single_kernel, dict[str, object]()
        if launch.block_m > 1:
            strides = (*partial.stride()[1:3], lora_b.stride(1))
            how["BLOCK_M"] = launch.block_m
            how["ALIGNED"] = all(size % 16 == 0 for size in slice_sizes)
            how["EIGHTS"] = rank % 16 == 8 and all(stride % 8 == 0 for stride in strides)
            kernel = expand_staged_kernel if launch.num_stages else expand_kernel
        if launch.num_stages:
            how["STAGES"] = launch.num_stages
        if launch.block_r < rank:
            kernel = expand_walked_kernel
            how |= walked_registers(launch, lora_b.dtype)
            partial = partial if len(partial) == 1 else launch_sum(partial, batch, dependent=dependent)
        else:
            how["SPLIT"] = len(partial)
        if dependent:
            how["launch_pdl"] = True
        kernel[grid](
            partial, lora_b, scaling, output, tiles.slots, tiles.tokens, chunks,
            len(chunks), rank,
            *partial.stride(), *lora_b.stride(), *scaling.stride(), *output.stride(),
            BLOCK_N=launch.block_n, BLOCK_R=launch.block_r,
            PDL=dependent, num_warps=launch.num_warps, **how,
        )  # fmt: skip


def walked_registers(launch: ExpandLaunch, dtype: torch.dtype) -> dict[str, object]:
    """How many registers a thread may have, so that three or four programs share a multiprocessor."""
    return {"maxnreg": 168 if launch.block_m == 64 else 128} if dtype == torch.bfloat16 else {}
