"""A piece: rows of one checkpoint tensor that lie in a parameter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lora_compat.checkpoint_map.alphabets import raw_dtype
from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.planes import Plane, chunks, places_agree


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of a parameter, and the block of a checkpoint tensor that is in it.

    ``target`` are lines of the parameter's `Plane`, ``rows`` and ``columns`` the tensor's own, with leading dimensions
    flattened into the rows. ``transposed`` says that lines run along the parameter's last dimension. The columns fill
    theirs from ``first_column`` on.
    """

    tensor: str
    target: Indices
    rows: Indices
    columns: Indices
    first_column: int = 0
    transposed: bool = False

    @property
    def elements(self) -> int:
        """How many there are."""
        return len(self.target) * len(self.columns)

    def plane(self, shape: tuple[int, ...]) -> Plane:
        """Where the piece lies in a parameter of ``shape``."""
        whole = Plane.of(shape, transposed=self.transposed)
        return Plane(whole.stack, whole.rows, len(self.columns), self.first_column, self.transposed)

    def taken(self, source: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """The block of ``source`` that is in the piece, ``[lines, columns]``; or some of its lines."""
        flat = source.reshape(-1, source.shape[-1]) if source.dim() > 1 else source.reshape(-1, 1)
        return _along(_along(flat, self.rows, start, stop), self.columns, dim=1)

    def put(self, source: Tensor, into: Tensor) -> None:
        """Writes the block of ``source`` into its place in ``into``, a parameter."""
        self.place(self.taken(source), into)

    def place(self, block: Tensor, into: Tensor) -> None:
        """Writes a block ``[lines, columns]`` of the tensor's into its place in ``into``, a parameter."""
        plane, lines = self.plane(tuple(into.shape)), self.target.tensor()
        plane.view(into)[lines // plane.rows, lines % plane.rows] = block

    def holds(self, parameter: Tensor, source: Tensor) -> bool:
        """Whether the piece of the parameter has the bits of that of ``source``."""
        plane = self.plane(tuple(parameter.shape))
        there, raw = plane.view(parameter), source.view(raw_dtype(source.dtype))
        flat = there.reshape(-1, plane.columns) if plane.stack == 1 or there.is_contiguous() else None
        for start in (steps := chunks(len(self.target), plane.columns)):
            stop = start + steps.step
            if flat is not None:
                found = _along(flat, self.target, start, stop)
            else:
                found = plane.lines_of(parameter, self.target.tensor()[start:stop])
            if not places_agree(found, self.taken(raw, start, stop).to(found.device, found.dtype)):
                return False
        return True

    def said(self, shape: tuple[int, ...]) -> str:
        """In words, for a parameter of ``shape``: ``[2] rows 0:5 = experts.2.up.weight[5:10], columns 0:8``."""
        plane = self.plane(shape)
        start, count = divmod(self.target.start, plane.rows), -(-len(self.target) // plane.rows)
        what = "columns" if self.transposed else "rows"
        if plane.stack == 1:
            where = f"{what} {self.target}"
        elif self.target.is_slice and start[1] + len(self.target) <= plane.rows:
            where = f"[{start[0]}] {what} {Indices(start[1], len(self.target))}"
        elif self.target.is_slice and start[1] == 0 and len(self.target) % plane.rows == 0:
            where = f"[{Indices(start[0], count)}] all {what}"
        else:
            where = f"{what} {self.target} of all {plane.stack} together"
        columns = "" if self.columns.is_slice and self.columns.start == 0 else f", columns {self.columns}"
        first = f" from {'row' if self.transposed else 'column'} {self.first_column}" if self.first_column else ""
        return f"{where}{first} = {self.tensor}[{self.rows}]{columns}{', transposed' if self.transposed else ''}"


def _along(matrix: Tensor, indices: Indices, start: int = 0, stop: int | None = None, dim: int = 0) -> Tensor:
    """The indices' part ``start:stop`` of a matrix along a dimension; a view where they are a slice."""
    if indices.is_slice:
        size = min(len(indices), len(indices) if stop is None else stop) - start
        return matrix.narrow(dim, indices.start + start, size)
    return matrix.index_select(dim, indices.tensor()[start:stop].to(matrix.device))
