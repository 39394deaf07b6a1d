"""Which ids of a vocabulary a rank holds.

The original vocabulary and the one added to it are padded and cut each on its own, and every rank holds its part of
both, so a rank's rows are neither contiguous ids nor all of them ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class VocabularyShard:
    """The ids whose rows one rank holds: ``original`` from local row 0, ``added`` from ``original_rows`` on.

    ``original_rows`` and ``added_rows`` count padding too.
    """

    original: range
    original_rows: int
    added: range
    added_rows: int

    @classmethod
    def of(cls, vocabulary: int, original: int, padding_size: int, rank: int, size: int) -> VocabularyShard:
        """Rank ``rank``'s part of a vocabulary whose first ``original`` ids were there before others were added.

        Raises:
            ValueError: the ranks do not divide the padding size.
        """
        if padding_size % size:
            raise ValueError(f"padding_size={padding_size} is not divisible by the tensor-parallel size {size}")
        padded = _padded(original, padding_size)
        rows = padded // size
        added_rows = (_padded(padded + vocabulary - original, padding_size) - padded) // size
        return cls(
            _clipped(rank * rows, rows, original),
            rows,
            _clipped(original + rank * added_rows, added_rows, vocabulary),
            added_rows,
        )

    @property
    def rows(self) -> int:
        """Local rows, padding included."""
        return self.original_rows + self.added_rows

    def find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The local row of each id, 0 for those not held here, and whether it is held; ``ids`` are not written to."""
        in_original = (ids >= self.original.start) & (ids < self.original.stop)
        in_added = (ids >= self.added.start) & (ids < self.added.stop)
        rows = torch.where(in_added, ids - self.added.start + self.original_rows, ids - self.original.start)
        held = in_original | in_added
        return torch.where(held, rows, 0), held

    def take(self, whole: Tensor) -> Tensor:
        """This rank's rows of ``whole [ids, ...]``, zero where it has none: the padding, or ids added later."""
        local = whole.new_zeros(self.rows, *whole.shape[1:])
        local[: len(self.original)] = whole[self.original.start : self.original.stop]
        held = whole[self.added.start : self.added.stop]
        local[self.original_rows : self.original_rows + len(held)] = held
        return local


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _clipped(start: int, count: int, limit: int) -> range:
    return range(min(start, limit), min(start + count, limit))
