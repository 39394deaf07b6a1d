"""Parameters as matrices: all have three dimensions here, of which the last two may be turned."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lora_compat.checkpoint_map.alphabets import raw_dtype

_CHUNK = 2**22  # elements
_WIDE = torch.int64.itemsize


@dataclass(frozen=True, slots=True)
class Plane:
    """``stack`` matrices of ``rows × columns`` in a parameter; *lines* are their rows, numbered throughout.

    ``transposed``: the matrices are those of the parameter turned. ``first`` is the first column in the parameter.
    """

    stack: int
    rows: int
    columns: int
    first: int = 0
    transposed: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...], *, transposed: bool = False) -> Plane:
        """All of a parameter of ``shape``; a vector is one column."""
        rows, columns = (*shape, 1, 1)[:2] if len(shape) < 2 else shape[-2:]
        if transposed:
            rows, columns = columns, rows
        return cls(prod(shape[:-2]), rows, columns, 0, transposed)

    @property
    def lines(self) -> int:
        """Rows of all matrices together."""
        return self.stack * self.rows

    def view(self, parameter: Tensor) -> Tensor:
        """``[stack, rows, columns]`` of a parameter, sharing its memory where that is possible."""
        whole = parameter.detach().view(raw_dtype(parameter.dtype))
        whole = whole.reshape(self.stack, -1, whole.shape[-1]) if whole.dim() > 1 else whole.reshape(1, -1, 1)
        turned = whole.transpose(1, 2) if self.transposed else whole
        return turned[..., self.first : self.first + self.columns]

    def lines_of(self, parameter: Tensor, lines: Tensor) -> Tensor:
        """``[len(lines), columns]``: a copy of some lines."""
        return self.view(parameter)[lines // self.rows, lines % self.rows]


def places_agree(one: Tensor, other: Tensor) -> bool:
    """Whether two matrices hold the same bits; quicker where their rows can be read eight bytes at a time."""
    wide_one, wide_other = _wide(one), _wide(other)
    if wide_one is not None and wide_other is not None:
        return torch.equal(wide_one, wide_other)
    return torch.equal(_bits(one), _bits(other))


def chunks(lines: int, columns: int) -> range:
    """Where to cut a block of that size so that a part is small; the range's step is the lines of one."""
    return range(0, lines, max(1, _CHUNK // max(1, columns)))


def _bits(tensor: Tensor) -> Tensor:
    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(signed[tensor.dtype.itemsize])


def _wide(tensor: Tensor) -> Tensor | None:
    numbers = (tensor.shape[1], tensor.storage_offset(), tensor.stride(0))
    aligned = tensor.stride(1) == 1 and all(one * tensor.dtype.itemsize % _WIDE == 0 for one in numbers)
    return tensor.view(torch.int64) if aligned and tensor.shape[1] else None
