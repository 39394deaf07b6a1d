"""What is seen of one parameter while the digits pass, and the pieces that it suggests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from lora_compat.checkpoint_map.alphabets import UNKNOWN
from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.numbering import Axis, Section
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.checkpoint_map.planes import Plane

_MOST_BLOCKS = 8


@dataclass(slots=True, eq=False)
class Block:
    """Columns of a plane in which every line is of one row of the checkpoint, ``rows [lines]``."""

    plane: Plane
    groups: list[tuple[int, Tensor, Tensor]]  # the tensor's number, the lines that are of it, and its rows in them
    columns: Tensor | None = None  # of the lines looked at, group after group


@dataclass(slots=True, eq=False)
class Reading:
    """Looks at a few lines and columns, or, ``careful``, at all of them.

    What the few do not show (two tensors side by side, lines whose columns differ) is found out when it is proved,
    and looked at carefully then.
    """

    section: Section
    shape: tuple[int, ...]
    careful: bool
    blocks: list[Block] = field(default_factory=list)
    tangled: bool = False
    _across: Tensor | None = None
    _down: Tensor | None = None
    _columns: Tensor | None = None

    def see(self, axis: Axis, parameter: Tensor, place: int) -> None:
        """Notes digit ``place`` of what the parameter holds after a pass."""
        if axis is Axis.ROWS:
            view = Plane.of(self.shape).view(parameter)
            self._across = self._joined(self._across, view[:, :, self._spots(view.shape[2])], place)
            if not self.careful:
                self._down = self._joined(self._down, view[:, self._spots(view.shape[1])], place)
        elif self.tangled and self.careful:
            self._columns = self._joined(self._columns, Plane.of(self.shape).view(parameter), place)
        for block in self.blocks if axis is Axis.COLUMNS else ():
            lines = torch.cat([self._looked_at(lines) for _, lines, _ in block.groups])
            block.columns = self._joined(block.columns, block.plane.lines_of(parameter, lines), place)

    def rows_seen(self) -> None:
        """All digits of the rows are noted: which way do they run, and which tensors are they of?"""
        across, down = self._across, self._down if self._down is not None else self._across
        assert across is not None
        assert down is not None
        self.blocks = []
        for transposed, rows in ((False, _alike(across, 2)), (True, _alike(down, 1))):
            if rows is not None:
                self.blocks = [self._block(Plane.of(self.shape, transposed=transposed), rows)]
                break
        else:
            self.tangled = True
            if self.careful:
                self.blocks = [self._block(plane, rows) for plane, rows in _side_by_side(self.shape, across)]
        self.blocks = [block for block in self.blocks if block.groups]

    def proposed(self) -> Iterator[Piece]:
        """The pieces that the digits suggest."""
        for block in self.blocks:
            assert block.columns is not None
            counts = [len(self._looked_at(lines)) for _, lines, _ in block.groups]
            for (number, lines, rows), columns in zip(block.groups, block.columns.split(counts), strict=True):
                yield from self._of_group(block.plane, number, lines, rows, columns)

    def elements(self) -> tuple[Tensor, Tensor] | None:
        """Row and column of each element, ``[stack, rows, columns]``, where that was looked at."""
        whole = self._across is not None and self._columns is not None
        return (self._across, self._columns) if whole else None  # type: ignore[return-value]

    def _of_group(self, plane: Plane, number: int, lines: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Piece]:
        changes = (columns[1:] != columns[:-1]).any(1).nonzero().flatten() + 1
        if len(changes) and not (self.careful and len(changes) < _MOST_BLOCKS):
            self.tangled = True
            return
        bounds = [0, *changes.tolist(), len(lines)]
        width = self.section.infos[number].columns
        for start, stop in pairwise(bounds):
            target, source = Indices.of(lines[start:stop]), Indices.of(rows[start:stop])
            for first, last in _runs((columns[start] >= 0) & (columns[start] < width)):
                here = Indices.of(columns[start][first:last])
                yield Piece(self.section.names[number], target, source, here, plane.first + first, plane.transposed)

    def _block(self, plane: Plane, rows: Tensor) -> Block:
        number, local = self.section.find(rows.flatten())
        order = torch.argsort(number, stable=True)
        order = order[number[order] >= 0]
        found, counts = number[order].unique_consecutive(return_counts=True)
        parts = order.split(counts.tolist())
        return Block(plane, [(int(one), lines, local[lines]) for one, lines in zip(found, parts, strict=True)])

    def _looked_at(self, lines: Tensor) -> Tensor:
        return lines[self._spots(len(lines))]

    def _spots(self, size: int) -> Tensor:
        return torch.arange(size) if self.careful else torch.tensor(sorted({0, size // 2, size - 1}))

    def _joined(self, ids: Tensor | None, seen: Tensor, place: int) -> Tensor:
        """Numbers with one more digit in front; the first thing that is no digit wins."""
        digits = self.section.letters.digits(seen)
        if ids is None or place == 0:
            return digits
        both = torch.where(digits < 0, digits, ids + digits * self.section.letters.base**place)
        return torch.where((ids < 0) != (digits < 0), UNKNOWN, torch.where(ids < 0, ids, both))


def _alike(ids: Tensor, dim: int) -> Tensor | None:
    """The one number along ``dim`` at each place, whatever is none of the checkpoint aside; None where they differ."""
    top = ids.amax(dim, keepdim=True)
    return top.squeeze(dim) if bool(((ids < 0) | (ids == top)).all()) else None


def _side_by_side(shape: tuple[int, ...], ids: Tensor) -> list[tuple[Plane, Tensor]]:
    """Runs of columns, or of columns of the transpose, within which every line is of one row; none if too many."""
    for transposed in (False, True):
        whole = Plane.of(shape, transposed=transposed)
        turned = ids.transpose(1, 2) if transposed else ids
        changes = (turned[..., 1:] != turned[..., :-1]).any(0).any(0).nonzero().flatten() + 1
        if len(changes) < _MOST_BLOCKS:
            bounds = [0, *changes.tolist(), whole.columns]
            return [
                (Plane(whole.stack, whole.rows, stop - start, start, transposed), turned[..., start])
                for start, stop in pairwise(bounds)
            ]
    return []


def _runs(live: Tensor) -> Iterator[tuple[int, int]]:
    """Where ``live`` is true, as runs."""
    none = torch.zeros(1, dtype=torch.int8)
    edges = torch.diff(live.to(torch.int8), prepend=none, append=none)
    starts, stops = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
    yield from zip(starts.tolist(), stops.tolist(), strict=True)
