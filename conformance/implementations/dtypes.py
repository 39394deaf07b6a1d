"""The dtype of a case, as torch has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from strategies.cases import Dtype


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch dtype of its tensors."""
    found: torch.dtype = getattr(torch, dtype.of_tensors)
    return found


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Layers built in the block have parameters of ``dtype``, whatever arguments their constructor takes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
