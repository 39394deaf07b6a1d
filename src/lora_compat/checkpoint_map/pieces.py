"""From the sources of a parameter's elements to pieces: rows of one tensor that lie together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lora_compat.checkpoint_map.alphabets import UNWRITTEN, ZERO
from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.learning import Sources
from lora_compat.checkpoint_map.shapes import TensorInfo


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of a parameter, and the block of a checkpoint tensor that is in it.

    ``at`` is the place in the parameter's first dimensions where those are walked one by one (the expert of a stack);
    ``target`` are the indices in the dimension that the tensor's rows run along, ``rows`` and ``columns`` the tensor's
    own, with leading dimensions flattened into the rows. ``transposed`` says that its rows run along the last
    dimension. The columns fill their dimension, from ``first_column`` on.
    """

    tensor: str
    at: tuple[int, ...]
    target: Indices
    rows: Indices
    columns: Indices
    first_column: int = 0
    transposed: bool = False

    def put(self, source: Tensor, into: Tensor) -> None:
        """Writes the block of ``source`` into its place in ``into``."""
        flat = source.reshape(-1, source.shape[-1]) if source.dim() > 1 else source.reshape(-1, 1)
        self.place(flat[self.rows.tensor()][:, self.columns.tensor()], into)

    def place(self, block: Tensor, into: Tensor) -> None:
        """Writes a block ``[rows, columns]`` of the tensor's into its place in ``into``."""
        place = into[self.at] if self.at else into
        if place.dim() < 2:
            place.view(-1)[self.target.tensor()] = block.flatten()
            return
        view = place.t() if self.transposed else place
        view[self.target.tensor(), self.first_column : self.first_column + len(self.columns)] = block

    def __str__(self) -> str:
        where = ", ".join(
            [*map(str, self.at), f"rows {self.target}" if not self.transposed else f"columns {self.target}"]
        )
        columns = "" if self.columns.is_slice and self.columns.start == 0 else f", columns {self.columns}"
        turned = ", transposed" if self.transposed else ""
        return f"{where} = {self.tensor}[{self.rows}]{columns}{turned}"


def parameter_pieces(
    shape: tuple[int, ...], sources: Sources, shapes: Mapping[str, TensorInfo]
) -> tuple[tuple[Piece, ...], dict[str, int]]:
    """The pieces of one parameter, and how many of its elements are of another origin, by its name."""
    table = _Table(shapes)
    rows, columns = _aligned(sources)
    others: dict[str, int] = {}
    pieces: list[Piece] = []
    size = 1
    for one in shape:
        size *= one
    if not size:
        return (), {}
    for at, row_ids, column_ids, dims in _planes(shape, rows, columns):
        pieces += _plane(at, row_ids, column_ids, dims, table, others)
    return tuple(pieces), others


class _Table:
    """Which tensor a row of the whole checkpoint is in."""

    def __init__(self, shapes: Mapping[str, TensorInfo]) -> None:
        self.names = list(shapes)
        self.infos = list(shapes.values())
        counts = torch.tensor([info.rows for info in self.infos] or [0])
        self.ends = counts.cumsum(0)
        self.starts = self.ends - counts

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The number of the tensor of each row, -1 for none, and the row in it."""
        number = torch.searchsorted(self.ends, rows.clamp_min(0).contiguous(), right=True)
        known = (rows >= 0) & (number < len(self.names))
        number = torch.where(known, number, -1)
        return number, torch.where(known, rows - self.starts[number.clamp_min(0)], rows)


def _aligned(sources: Sources) -> tuple[Tensor, Tensor]:
    dims = max(sources.rows.dim(), sources.columns.dim(), 1)
    rows, columns = (
        one.reshape((1,) * (dims - one.dim()) + tuple(one.shape)) for one in (sources.rows, sources.columns)
    )
    return rows, columns


def _planes(
    shape: tuple[int, ...], rows: Tensor, columns: Tensor
) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor, tuple[int, ...]]]:
    """The last two dimensions, for each place in those before."""
    if len(shape) <= 2:
        yield (), rows, columns, shape
        return
    for index in range(shape[0]):
        inner = [one[index if one.shape[0] > 1 else 0] for one in (rows, columns)]
        for at, row_ids, column_ids, dims in _planes(shape[1:], *inner):
            yield (index, *at), row_ids, column_ids, dims


def _plane(
    at: tuple[int, ...],
    rows: Tensor,
    columns: Tensor,
    shape: tuple[int, ...],
    table: _Table,
    others: dict[str, int],
) -> Iterator[Piece]:
    """The pieces of a matrix or a vector."""
    if len(shape) < 2:
        yield from _lines(
            at, rows.reshape(-1).expand(shape[0] if shape else 1), columns.reshape(-1)[:1], table, others, 1
        )
        return
    if rows.shape[1] == 1 and columns.shape[0] == 1:
        yield from _lines(at, rows[:, 0].expand(shape[0]), columns[0].expand(shape[1]), table, others, shape[1])
    elif rows.shape[0] == 1 and columns.shape[1] == 1:
        found = _lines(at, rows[0].expand(shape[1]), columns[:, 0].expand(shape[0]), table, others, shape[0])
        yield from (_transposed(piece) for piece in found)
    elif rows.shape[1] == 1 or (blocks := _column_blocks(rows)) is None:
        # Columns that differ from row to row: runs of rows with the same ones, as where two tensors are cut unlike.
        yield from _by_rows(at, rows, columns, shape, table, others)
    else:
        for start, stop in blocks:
            part = columns.expand(-1, shape[1])[:, start:stop]
            for piece in _plane(at, rows[:, start : start + 1], part, (shape[0], stop - start), table, others):
                yield Piece(piece.tensor, at, piece.target, piece.rows, piece.columns, start, piece.transposed)


def _transposed(piece: Piece) -> Piece:
    return Piece(piece.tensor, piece.at, piece.target, piece.rows, piece.columns, piece.first_column, True)


_MOST_BLOCKS = 8


def _column_blocks(rows: Tensor) -> list[tuple[int, int]] | None:
    """Runs of columns within which every row is of one source row; None where there are too many."""
    changes = (rows[:, 1:] != rows[:, :-1]).any(0).nonzero().flatten() + 1
    if len(changes) >= _MOST_BLOCKS:
        return None
    bounds = [0, *changes.tolist(), rows.shape[1]]
    return list(pairwise(bounds))


def _by_rows(
    at: tuple[int, ...],
    rows: Tensor,
    columns: Tensor,
    shape: tuple[int, ...],
    table: _Table,
    others: dict[str, int],
) -> Iterator[Piece]:
    whole = columns.expand(shape[0], -1)
    changes = (whole[1:] != whole[:-1]).any(1).nonzero().flatten() + 1
    if rows.shape[1] > 1 or len(changes) >= _MOST_BLOCKS:
        _count(others, rows.expand(shape), columns.expand(shape), scattered=True)
        return
    bounds = [0, *changes.tolist(), shape[0]]
    for start, stop in pairwise(bounds):
        lines = rows.expand(shape[0], 1)[start:stop, 0]
        for piece in _lines(at, lines, whole[start].expand(shape[1]), table, others, shape[1]):
            moved = Indices.of(piece.target.tensor() + start)
            yield Piece(piece.tensor, at, moved, piece.rows, piece.columns)


def _lines(
    at: tuple[int, ...], rows: Tensor, columns: Tensor, table: _Table, others: dict[str, int], width: int
) -> Iterator[Piece]:
    """Pieces of a block whose rows each come from one row, all with the same columns."""
    number, local = table.find(rows)
    good = (columns >= 0).all()
    for index in dict.fromkeys(number.tolist()):  # in the order in which they come
        places = (number == index).nonzero().flatten()
        if index < 0 or not good or int(columns.max()) >= table.infos[index].columns:
            told = rows[places] if index < 0 else columns[:1].expand(len(places))
            _count(others, told[:, None].expand(-1, width), columns[None].expand(len(places), -1), scattered=False)
            continue
        yield Piece(table.names[index], at, Indices.of(places), Indices.of(local[places]), Indices.of(columns))


def _count(others: dict[str, int], rows: Tensor, columns: Tensor, *, scattered: bool) -> None:
    rows, columns = torch.broadcast_tensors(rows, columns)
    unwritten = int(((rows == UNWRITTEN) | (columns == UNWRITTEN)).sum())
    zero = int(((rows == ZERO) & (columns == ZERO)).sum())
    rest = rows.numel() - unwritten - zero
    for name, count in (("unwritten", unwritten), ("zero", zero), ("scattered" if scattered else "computed", rest)):
        if count:
            others[name] = others.get(name, 0) + count
