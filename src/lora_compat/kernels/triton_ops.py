"""Multi-adapter LoRA in Triton: the same three functions as ``torch_ops``, same arguments, same results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_compat.kernels.batch import TokenBatch
from lora_compat.kernels.triton_expand import launch_expand
from lora_compat.kernels.triton_shrink import launch_shrink


def shrink(x: Tensor, lora_a: Tensor, batch: TokenBatch) -> Tensor:
    """``hidden[t, l, r] = Σ_k x[t, k] · lora_a[slot(t), l, r, k]``, zero for a token without an adapter."""
    partial = launch_shrink(x, lora_a, batch, zeroed=batch.adapted < len(batch))
    return partial[0] if len(partial) == 1 else partial.sum(dim=0)


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
    """``output[t, offset + n] += scaling[slot(t)] · Σ_r hidden[t, slice(n), r] · lora_b[slot(t), n, r]``."""
    target = output[:, offset : offset + sum(slice_sizes)]
    launch_expand(hidden.unsqueeze(0), lora_b, scaling, batch, target, tuple(slice_sizes))


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
    """``expand(shrink(x))`` without the hidden tensor: the second kernel sums the first one's shares of K."""
    overlap = x.is_cuda and torch.cuda.get_device_capability(x.device) >= (9, 0)
    target = output[:, offset : offset + sum(slice_sizes)]
    partial = launch_shrink(x, lora_a, batch, dependent=overlap)
    launch_expand(partial, lora_b, scaling, batch, target, tuple(slice_sizes), dependent=overlap)
