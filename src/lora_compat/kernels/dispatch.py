"""Which of the twins runs: Triton for what a GPU holds in a narrow float, plain torch for everything else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from lora_compat.kernels import torch_ops
from lora_compat.kernels.batch import TokenBatch

TRITON_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Makes the tensor's GPU the current one: Triton launches there."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def ops_for(*tensors: Tensor, factors: tuple[Tensor, ...] = ()) -> ModuleType:
    """The module whose ``shrink``, ``expand`` and ``add_lora`` serve tensors like these.

    ``factors`` are those of one product, which Triton wants of one dtype. Triton is imported at the first call that
    needs it: importing this library is fast and works without it. ``TRITON_INTERPRET=1`` (Triton's interpreter)
    sends CPU tensors there too.
    """
    reachable = all(tensor.is_cuda for tensor in tensors) or os.environ.get("TRITON_INTERPRET") == "1"
    served = all(tensor.dtype in TRITON_DTYPES for tensor in tensors) and len({x.dtype for x in factors}) <= 1
    if reachable and served and _has_triton():
        from lora_compat.kernels import triton_ops

        return triton_ops
    return torch_ops


def shrink(x: Tensor, lora_a: Tensor, batch: TokenBatch) -> Tensor:
    """``hidden[t, l, r] = Σ_k x[t, k] · lora_a[slot(t), l, r, k]``, zero for a token without an adapter.

    ``x`` is ``[tokens, k]``, ``lora_a`` ``[slots, slices, rank, k]``, both of one dtype; the result is
    ``[tokens, slices, rank]`` in the accumulation dtype.
    """
    with on_device_of(x):
        hidden: Tensor = ops_for(x, lora_a, factors=(x, lora_a)).shrink(x, lora_a, batch)
    return hidden


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

    ``hidden`` is ``[tokens, slices, rank]`` in the accumulation dtype, ``lora_b`` ``[slots, Σ slice_sizes,
    rank]``, ``scaling`` ``[slots]``. Nothing but these columns of tokens with an adapter is written.
    """
    ops = ops_for(hidden, lora_b, output)
    with on_device_of(output):
        ops.expand(hidden, lora_b, scaling, batch, output, slice_sizes=slice_sizes, offset=offset)


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
    """``expand(shrink(x, lora_a, batch), …)``, faster: for where nothing happens to ``hidden`` in between."""
    ops = ops_for(x, lora_a, lora_b, output, factors=(x, lora_a))
    with on_device_of(output):
        ops.add_lora(x, lora_a, lora_b, scaling, batch, output, slice_sizes=slice_sizes, offset=offset)
