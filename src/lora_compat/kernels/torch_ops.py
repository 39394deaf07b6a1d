"""Multi-adapter LoRA in plain torch: the twin that the CPU runs and that every kernel is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_compat.kernels.batch import TokenBatch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which products are summed: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def shrink(x: Tensor, lora_a: Tensor, batch: TokenBatch) -> Tensor:
    """``hidden[t, l, r] = Σ_k x[t, k] · lora_a[slot(t), l, r, k]``, zero for a token without an adapter.

    ``x`` is ``[tokens, k]``, ``lora_a`` ``[slots, slices, rank, k]``; the result ``[tokens, slices, rank]``
    has the accumulation dtype. Rows of one slot never meet another slot's weights.
    """
    slices, rank = lora_a.shape[1], lora_a.shape[2]
    dtype = accumulation_dtype(x.dtype)
    hidden = torch.zeros(x.shape[0], slices * rank, dtype=dtype, device=x.device)
    for slot, tokens in batch.groups:
        weights = lora_a[slot].reshape(slices * rank, -1).to(dtype)
        hidden[tokens] = x[tokens].to(dtype) @ weights.t()
    return hidden.view(x.shape[0], slices, rank)


def expand(
    hidden: Tensor,
    lora_b: Tensor,
    scaling: Tensor,
    batch: TokenBatch,
    output: Tensor,
    *,
    slice_sizes: Sequence[int],
    offset: int = 0,
) -> None:
    """``output[t, offset + n] += scaling[slot(t)] · Σ_r hidden[t, slice(n), r] · lora_b[slot(t), n, r]``.

    ``hidden`` is ``[tokens, slices, rank]``, ``lora_b`` ``[slots, Σ slice_sizes, rank]``, ``scaling``
    ``[slots]``, ``output`` ``[tokens, columns]`` of any strides, changed in place. Rows of tokens without an
    adapter are not written, so they keep their bits (MATH-3); neither is any column outside the slices.
    """
    columns = slice(offset, offset + sum(slice_sizes))
    for slot, tokens in batch.groups:
        weights = lora_b[slot].to(hidden.dtype)
        rows = hidden[tokens]
        parts = [
            rows[:, index] @ weights_of_slice.t()
            for index, weights_of_slice in enumerate(torch.split(weights, list(slice_sizes)))
        ]
        delta = torch.cat(parts, dim=1) * scaling[slot].to(hidden.dtype)
        target = output[:, columns]
        target[tokens] = (target[tokens].to(hidden.dtype) + delta).to(output.dtype)


def add_lora(
    x: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: Tensor,
    batch: TokenBatch,
    output: Tensor,
    *,
    slice_sizes: Sequence[int],
    offset: int = 0,
) -> None:
    """``expand(shrink(x, lora_a, batch), …)``: all of LoRA where nothing happens to ``hidden`` in between."""
    hidden = shrink(x, lora_a, batch)
    expand(hidden, lora_b, scaling, batch, output, slice_sizes=slice_sizes, offset=offset)
