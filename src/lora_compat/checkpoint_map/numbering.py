"""Checkpoints of numbers: by digits, which tell of an element its row or its column, and without any order."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_compat.checkpoint_map.alphabets import Alphabet, Kind, alphabet_for, kind_of, raw_dtype
from lora_compat.checkpoint_map.shapes import TensorInfo

Handed = Iterator[tuple[str, Tensor]]
_PERIOD = 1_048_573  # a prime, so that no row of a matrix begins where another did
_SPREAD, _ALIGNED = 2**12, 8


class Axis(enum.Enum):
    """What a digit is of."""

    ROWS = "rows"
    COLUMNS = "columns"


@dataclass(slots=True, eq=False)
class Section:
    """The tensors of one kind. Rows are numbered throughout, columns in each tensor from zero."""

    letters: Alphabet
    names: list[str]
    infos: list[TensorInfo]
    starts: Tensor
    ends: Tensor

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The number of the tensor of each row, -1 for none, and the row in it."""
        number = torch.searchsorted(self.ends, rows.clamp_min(0).contiguous(), right=True)
        number = torch.where((rows >= 0) & (number < len(self.names)), number, -1)
        return number, rows - self.starts[number.clamp_min(0)] if len(self.names) else rows

    def places(self, axis: Axis) -> int:
        """How many digits the largest number has."""
        widest = max((info.columns for info in self.infos), default=1)
        total = int(self.ends[-1]) if axis is Axis.ROWS and self.names else widest
        places = 1
        while self.letters.base**places < total:
            places += 1
        return places


class Numbering:
    """A checkpoint with ``shapes`` whose elements are numbers; ``dtypes`` are those that they end up in."""

    def __init__(self, shapes: Mapping[str, TensorInfo], dtypes: set[torch.dtype]) -> None:
        self.shapes = shapes
        self.sections = {kind: _section(kind, shapes, dtypes) for kind in Kind}
        self._start = {
            name: int(start)
            for one in self.sections.values()
            for name, start in zip(one.names, one.starts.tolist(), strict=True)
        }

    def places(self, axis: Axis) -> int:
        """How many passes tell all digits."""
        return max((one.places(axis) for one in self.sections.values() if one.names), default=1)

    def digits(self, axis: Axis, place: int, *, contiguous: bool) -> Handed:
        """The checkpoint with a digit of each element's row, or column, in its place; one tensor at a time.

        Tensors take no memory unless ``contiguous``: all elements of a row, or column, are one.
        """
        for name, info in self.shapes.items():
            kind = kind_of(info.dtype)
            if kind is None:
                yield name, torch.zeros(info.shape, dtype=info.dtype)
                continue
            letters = self.sections[kind].letters
            first, count = (self._start[name], info.rows) if axis is Axis.ROWS else (0, info.columns)
            ids = torch.arange(first, first + count)
            values = letters.values[ids // letters.base**place % letters.base].to(raw_dtype(info.dtype))
            tensor = values.view(info.dtype).view(_numbered_shape(info, axis)).expand(info.shape)
            yield name, tensor.clone(memory_format=torch.contiguous_format) if contiguous else tensor


def _numbered_shape(info: TensorInfo, axis: Axis) -> tuple[int, ...]:
    if len(info.shape) < 2:
        return info.shape if axis is Axis.ROWS else (1,) * len(info.shape)
    return (*info.shape[:-1], 1) if axis is Axis.ROWS else (*(1 for _ in info.shape[:-1]), info.columns)


def _section(kind: Kind, shapes: Mapping[str, TensorInfo], dtypes: set[torch.dtype]) -> Section:
    mine = {name: info for name, info in shapes.items() if kind_of(info.dtype) is kind}
    passed = {info.dtype for info in mine.values()} | {dtype for dtype in dtypes if kind_of(dtype) is kind}
    counts = torch.tensor([info.rows for info in mine.values()], dtype=torch.long)
    ends = counts.cumsum(0)
    return Section(alphabet_for(kind, passed), list(mine), list(mine.values()), ends - counts, ends)


class Disorder:
    """The same checkpoint with numbers in no order, which prove what the digits made likely.

    All tensors of a dtype are stretches of one long row of numbers, so no more memory is taken than the largest needs.
    """

    def __init__(self, numbering: Numbering) -> None:
        self._numbering = numbering
        self._rows: dict[torch.dtype, Tensor] = {}
        self._versions: dict[torch.dtype, int] = {}
        spread = torch.randint(_SPREAD, (len(numbering.shapes),), generator=torch.Generator().manual_seed(1))
        self._offset = dict(zip(numbering.shapes, (_ALIGNED * spread).tolist(), strict=True))

    def tensor(self, name: str) -> Tensor:
        """One tensor. A loader may write to it: what is handed out next has other memory."""
        info = self._numbering.shapes[name]
        row = self._row(info.dtype)
        return row[self._offset[name] : self._offset[name] + info.rows * info.columns].view(info.shape)

    def weights(self) -> Handed:
        """The whole checkpoint, one tensor at a time."""
        for name, info in self._numbering.shapes.items():
            if kind_of(info.dtype) is None:
                yield name, torch.zeros(info.shape, dtype=info.dtype)
                continue
            yield name, self.tensor(name)

    def _row(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._rows or self._rows[dtype]._version != self._versions[dtype]:
            sizes = [one.rows * one.columns for one in self._numbering.shapes.values() if one.dtype == dtype]
            numbers = self._numbering.sections[kind_of(dtype) or Kind.FLOATS].letters.moderate
            row = torch.empty(max(sizes) + _ALIGNED * _SPREAD, dtype=dtype)
            size = min(_PERIOD, len(row))
            order = torch.randint(len(numbers), (size,), generator=torch.Generator().manual_seed(2))
            period = numbers[order].to(raw_dtype(dtype)).view(dtype)
            for start in range(0, len(row), _PERIOD):
                part = row[start : start + _PERIOD]
                part.copy_(period[: len(part)])
            self._rows[dtype], self._versions[dtype] = row, row._version
        return self._rows[dtype]
