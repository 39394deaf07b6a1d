"""What a rank program sees of its engine, and what an engine reports when ranks disagree."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
# Frames that issue collectives on behalf of a layer; a call site is the first frame outside them.
_PLUMBING = (
    "conformance/engines/",
    "lora_compat/parallel.py",
    "conformance/implementations/vllm",
    "vllm/distributed/",
)


@dataclass(frozen=True, slots=True)
class CallSite:
    """Where a rank called from."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective as one rank issued it."""

    kind: str
    shape: tuple[int, ...]
    dtype: str
    dim: int | None
    site: CallSite

    @property
    def signature(self) -> tuple[object, ...]:
        """What must agree on all ranks."""
        return self.kind, self.shape, self.dtype, self.dim

    def __str__(self) -> str:
        dim = "" if self.dim is None else f", dim={self.dim}"
        return f"{self.kind}(shape={self.shape}, dtype={self.dtype}{dim}) at {self.site}"


class CollectiveMismatch(Exception):
    """Ranks that issued different collectives, or one that issued none (COMM-1)."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"collective mismatch: {first}; {second}")
        self.sites = (first, second)


class RankHung(Exception):
    """A rank that neither finished nor reached a collective in time."""


class RankLost(Exception):
    """A rank's process that is gone; nothing is known of what it ran."""


class RankFailed(Exception):
    """An exception on one rank, with which rank it was."""

    def __init__(self, rank: int, size: int, error: BaseException) -> None:
        super().__init__(f"rank {rank} of {size}: {type(error).__name__}: {error}")
        self.rank, self.size, self.error = rank, size, error
        self.site = site_of(error)


@dataclass(slots=True)
class RankGroup:
    """One rank's `TensorParallelGroup`; ``exchange`` hands over a tensor and gives back every rank's."""

    rank: int
    size: int
    exchange: Callable[[int, Collective, Tensor], list[Tensor]]
    log: list[Collective] = field(default_factory=list)

    def all_gather(self, tensor: Tensor, dim: int = -1) -> Tensor:
        """Every rank's ``tensor``, concatenated along ``dim`` in rank order."""
        dim = dim % tensor.dim()
        return torch.cat(self._meet("all_gather", tensor, dim), dim=dim)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in rank order."""
        first, *others = self._meet("all_reduce", tensor, None)
        total = first.clone()
        for other in others:
            total += other
        return total

    def _meet(self, kind: str, tensor: Tensor, dim: int | None) -> list[Tensor]:
        return self.exchange(self.rank, self.issued(kind, tensor, dim), tensor)

    def issued(self, kind: str, tensor: Tensor, dim: int | None) -> Collective:
        """Notes a collective in the log."""
        collective = Collective(kind, tuple(tensor.shape), str(tensor.dtype), dim, call_site())
        self.log.append(collective)
        return collective


class Engine(Protocol):
    """Runs one program on every rank of a group."""

    name: str

    def unsupported(self, size: int) -> str | None:
        """Why it does not run groups of ``size`` ranks, or None."""
        ...

    def run(self, size: int, program: Callable[[RankGroup], T]) -> list[T]:
        """The results in rank order.

        Raises:
            CollectiveMismatch: ranks disagreed about a collective.
            RankFailed: a rank raised; the first in rank order is named.
            RankHung: a rank did not come back.
            RankLost: a rank's process is gone.
        """
        ...

    def close(self) -> None:
        """Ends the ranks."""
        ...


def alone(program: Callable[[RankGroup], T]) -> T:
    """Runs a program as the only rank, in this thread."""
    try:
        return program(RankGroup(0, 1, lambda rank, issued, tensor: [tensor]))
    except Exception as error:
        raise RankFailed(0, 1, error) from error


def disagreement(
    size: int, waiting: Mapping[int, Collective], last: Mapping[int, Collective]
) -> CollectiveMismatch | None:
    """What is wrong once every rank waits in a collective or has ended; None if all wait in the same one.

    Args:
        size: how many ranks there are.
        waiting: the collective each waiting rank has issued; at least one.
        last: what each rank issued before, if anything.
    """
    first = min(waiting)
    for rank in range(size):
        if rank not in waiting:
            before = f"its last was {last[rank]}" if rank in last else "it issued none"
            return CollectiveMismatch(
                f"rank {first} issued {waiting[first]}", f"rank {rank} ended without it, {before}"
            )
        if waiting[rank].signature != waiting[first].signature:
            return CollectiveMismatch(f"rank {first} issued {waiting[first]}", f"rank {rank} issued {waiting[rank]}")
    return None


def call_site() -> CallSite:
    """The innermost frame outside the plumbing of collectives."""
    frame = sys._getframe(1)
    while frame.f_back is not None and any(part in frame.f_code.co_filename for part in _PLUMBING):
        frame = frame.f_back
    return CallSite(relative(frame.f_code.co_filename), frame.f_lineno, frame.f_code.co_qualname)


_HARNESS = (
    "<drawn ",
    "conformance/",
    "torch/",
    "strategies/",
)  # frames in which what is tested was at work, not at fault


def site_of(error: BaseException) -> CallSite | None:
    """Where ``error`` was raised: the innermost frame outside torch and the suite, or of all where there is none."""
    kept = getattr(error, _KEPT, None)
    if kept is not None or error.__traceback__ is None:
        return kept
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [one for one in frames if not relative(one[0].f_code.co_filename).startswith(_HARNESS)]
    frame, line = (own or frames)[-1]
    return CallSite(relative(frame.f_code.co_filename), line, frame.f_code.co_qualname)


_KEPT = "raised_at"


def keep_site(error: BaseException) -> BaseException:
    """``error`` with its site written down, which a pickled exception keeps and its traceback does not."""
    setattr(error, _KEPT, site_of(error))
    return error


@cache
def relative(file: str) -> str:
    """``file`` below the directory that it is imported from, which is the same on every machine."""
    for folder in sorted(map(os.path.abspath, sys.path), key=len, reverse=True):
        if file.startswith(folder + os.sep):
            return file[len(folder) + 1 :]
    return file
