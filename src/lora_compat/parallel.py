"""Tensor-parallel groups: what a sharded layer needs to know of its rank, and the two collectives it issues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class TensorParallelGroup(Protocol):
    """One rank's view of its tensor-parallel group."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, tensor: Tensor, dim: int = -1) -> Tensor:
        """Concatenates every rank's ``tensor`` along ``dim``, in rank order."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sums ``tensor`` over the ranks."""
        ...


class SingleGroup:
    """The group of a process on its own: every collective returns its input."""

    rank = 0
    size = 1

    def all_gather(self, tensor: Tensor, dim: int = -1) -> Tensor:
        return tensor

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor


class DistributedGroup:
    """A `torch.distributed` process group, gloo or nccl."""

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        self._group = process_group
        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)

    def all_gather(self, tensor: Tensor, dim: int = -1) -> Tensor:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor, group=self._group)
        return torch.cat(parts, dim=dim)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total, group=self._group)
        return total


SINGLE = SingleGroup()
_current: ContextVar[TensorParallelGroup] = ContextVar("tensor_parallel_group", default=SINGLE)


def current_group() -> TensorParallelGroup:
    """The group that a layer built now will be sharded over."""
    return _current.get()


def tensor_parallel_size() -> int:
    """How many ranks share a layer built now."""
    return current_group().size


@contextmanager
def tensor_parallel(group: TensorParallelGroup) -> Iterator[TensorParallelGroup]:
    """Makes ``group`` current for the layers built in the block, in this thread."""
    token = _current.set(group)
    try:
        yield group
    finally:
        _current.reset(token)
