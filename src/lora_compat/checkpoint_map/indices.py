"""Lists of indices in a form that is short and says what it means: slices, steps, and slices side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Indices:
    """``count`` runs of ``length`` indices: ``start + i·stride + j·step`` for run ``i`` and place ``j``; or a list.

    ``listed`` has the indices where no such numbers give them.
    """

    start: int
    length: int
    step: int = 1
    count: int = 1
    stride: int = 0
    listed: tuple[int, ...] = ()

    @classmethod
    def of(cls, indices: Tensor) -> Indices:
        """The shortest form of a 1-D tensor of integers."""
        values = indices.long()
        start, total = int(values[0]), len(values)
        if total == 1:
            return cls(start, 1)
        steps = values.diff()
        first = int(steps[0])
        breaks = (steps != first).nonzero().flatten()
        if not len(breaks):
            return cls(start, total, first)
        length = int(breaks[0]) + 1
        if total % length == 0:
            found = cls(start, length, first, total // length, int(values[length]) - start)
            if torch.equal(found.tensor(), values):
                return found
        return cls(start, total, listed=tuple(values.tolist()))

    def __len__(self) -> int:
        return len(self.listed) or self.length * self.count

    def tensor(self) -> Tensor:
        """All of them, as int64."""
        if self.listed:
            return torch.tensor(self.listed)
        runs = self.start + self.stride * torch.arange(self.count)
        return (runs[:, None] + self.step * torch.arange(self.length)).flatten()

    @property
    def is_slice(self) -> bool:
        """Whether it is ``start:stop``."""
        return not self.listed and self.count == 1 and (self.step == 1 or self.length == 1)

    def __str__(self) -> str:
        if self.listed:
            return f"{len(self.listed)} rows in another order, from {self.listed[0]}"
        stop = self.start + self.step * (self.length - 1) + (1 if self.step >= 0 else -1)
        step = "" if self.step == 1 or self.length == 1 else f":{self.step}"
        run = str(self.start) if self.length == 1 and self.count == 1 else f"{self.start}:{stop}{step}"
        if self.count == 1:
            return run
        return f"{self.count} x ({run}) moved by {self.stride}" if self.stride else f"{run} {self.count} times"
