"""The numbers of a whole model and its adapter: whole over a power of two, a function of seed and name alone."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

# Merged weights must be exact: bfloat16 keeps eight bits of a sum of up to eight products, float32 twenty-four.
_LARGEST = {torch.bfloat16: (4, 1, 3), torch.float16: (4, 1, 3)}
_WIDE = (8, 7, 7)
_EIGHTHS, _QUARTERS = 8, 4


def fill_weight(weight: Tensor, seed: int, name: str) -> None:
    """Whole eighths."""
    largest, _, _ = _LARGEST.get(weight.dtype, _WIDE)
    _fill(weight, seed, name, largest, _EIGHTHS)


def fill_factor(factor: Tensor, seed: int, name: str, *, is_b: bool, dtype: torch.dtype) -> None:
    """Whole quarters, none of them zero, for a model of ``dtype``; PEFT's factors are of float32 all the same."""
    _, of_a, of_b = _LARGEST.get(dtype, _WIDE)
    _fill(factor, seed, name, of_b if is_b else of_a, _QUARTERS)


def _fill(tensor: Tensor, seed: int, name: str, largest: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(crc32(f"{seed}/{name}".encode()))
    drawn = torch.randint(0, 2 * largest, tensor.shape, generator=generator)
    drawn.sub_(largest).add_(drawn >= 0)  # no zero, which hides what is lost
    tensor.copy_(drawn / parts)
