"""Real ranks: the same programs in processes of their own, over `torch.distributed` (gloo, or nccl on GPUs).

The ranks are started once and kept. Before a collective each rank tells the parent what it is about to issue; the
parent lets all of them go on once they agree, so a mismatch or a missing rank is a finding with both call sites
here too, and the backend is never left in a half-entered collective. A rank that dies or hangs takes its pool down;
the next case gets a new one.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor

from conformance.engines.ranks import (
    Collective,
    CollectiveMismatch,
    RankFailed,
    RankGroup,
    RankHung,
    RankLost,
    alone,
    disagreement,
)

T = TypeVar("T")
WATCHDOG_SECONDS = 120.0


class DistributedEngine:
    """Ranks as processes, kept between runs; pools of each size are started when first needed."""

    def __init__(
        self, backend: str = "gloo", *, max_size: int = 8, watchdog_seconds: float = WATCHDOG_SECONDS
    ) -> None:
        self.name = backend
        self.max_size = max_size
        self._watchdog = watchdog_seconds
        self._pools: dict[int, _Pool] = {}

    def run(self, size: int, program: Callable[[RankGroup], T]) -> list[T]:
        """See `Engine.run`."""
        if size == 1:
            return [alone(program)]
        if size not in self._pools:
            self._pools[size] = _Pool(self.name, size)
        try:
            return self._pools[size].run(cloudpickle.dumps(program), self._watchdog)
        except (RankHung, RankLost):
            self._pools.pop(size).close()
            raise

    def __reduce__(self) -> tuple[type[DistributedEngine], tuple[str]]:
        return type(self), (self.name,)  # a program that travels to a rank does not take the ranks along

    def close(self) -> None:
        """Ends every rank."""
        while self._pools:
            self._pools.popitem()[1].close()


class _Pool:
    """The processes of one group size."""

    def __init__(self, backend: str, size: int) -> None:
        # A forked rank has everything imported already; CUDA does not survive a fork.
        context: Any = multiprocessing.get_context("fork" if backend == "gloo" else "spawn")
        self._meeting = tempfile.NamedTemporaryFile(prefix="lora_compat_ranks_")  # noqa: SIM115 - lives as the pool does
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (backend, rank, size, self._meeting.name, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, program: bytes, watchdog: float) -> list[Any]:
        for rank in range(len(self._pipes)):
            self._send(rank, ("run", program))
        return _Coordination(self, len(self._pipes), watchdog).results()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._meeting.close()

    def ready(self, ranks: list[int], watchdog: float) -> list[int]:
        """Those of ``ranks`` that have something to say."""
        pipes = {id(self._pipes[rank]): rank for rank in ranks}
        return [pipes[id(pipe)] for pipe in wait([self._pipes[rank] for rank in ranks], watchdog)]

    def receive(self, rank: int) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = pickle.loads(self._pipes[rank].recv_bytes())
        except (EOFError, ConnectionResetError):
            raise self._lost(rank) from None
        return message

    def answer(self, rank: int, agreed: bool) -> None:
        self._send(rank, ("collective", agreed))

    def _send(self, rank: int, message: tuple[str, Any]) -> None:
        try:
            self._pipes[rank].send_bytes(pickle.dumps(message))
        except (BrokenPipeError, ConnectionResetError):
            raise self._lost(rank) from None

    def _lost(self, rank: int) -> RankLost:
        self._processes[rank].join(timeout=5)
        return RankLost(rank, len(self._pipes), self._processes[rank].exitcode)


class _Coordination:
    """One program on all ranks, as the parent sees it."""

    def __init__(self, pool: _Pool, size: int, watchdog: float) -> None:
        self._pool = pool
        self._size = size
        self._watchdog = watchdog
        self._running = set(range(size))
        self._waiting: dict[int, Collective] = {}
        self._last: dict[int, Collective] = {}
        self._ended: dict[int, tuple[str, Any]] = {}
        self._mismatch: CollectiveMismatch | None = None

    def results(self) -> list[Any]:
        while len(self._ended) < self._size:
            self._listen()
            if not self._running and self._waiting:
                self._meet()
        if self._mismatch is not None:
            raise self._mismatch
        failed = [(rank, value) for rank, (kind, value) in sorted(self._ended.items()) if kind == "raised"]
        if failed:
            rank, error = failed[0]
            raise RankFailed(rank, self._size, error) from error
        return [self._ended[rank][1] for rank in range(self._size)]

    def _listen(self) -> None:
        ranks = self._pool.ready(sorted(self._running), self._watchdog)
        if not ranks:
            raise RankHung(
                f"ranks {sorted(self._running)} of {self._size} neither ended nor reached a collective within "
                f"{self._watchdog:g} s; " + "; ".join(f"rank {r} waits in {c}" for r, c in self._waiting.items())
            )
        for rank in ranks:
            kind, value = self._pool.receive(rank)
            self._running.discard(rank)
            if kind == "collective":
                self._waiting[rank] = value
            else:
                self._ended[rank] = (kind, value)

    def _meet(self) -> None:
        died = any(kind == "raised" for kind, _ in self._ended.values())
        if self._mismatch is None and not died:
            self._mismatch = disagreement(self._size, self._waiting, self._last)
        agreed = self._mismatch is None and not died
        self._last |= self._waiting
        self._running |= set(self._waiting)
        for rank in self._waiting:
            self._pool.answer(rank, agreed)
        self._waiting = {}


class _Abandoned(BaseException):
    """Unwinds a rank whose collective will not happen."""


class _ProcessGroup(RankGroup):
    """A rank's group over `torch.distributed`."""

    __slots__ = ()

    def all_gather(self, tensor: Tensor, dim: int = -1) -> Tensor:
        dim = dim % tensor.dim()
        own = tensor.contiguous()
        self._announce("all_gather", own, dim)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return torch.cat(parts, dim=dim)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        self._announce("all_reduce", total, None)
        dist.all_reduce(total)
        return total

    def _announce(self, kind: str, tensor: Tensor, dim: int | None) -> None:
        issued = self.issued(kind, tensor, dim)
        self.exchange(self.rank, issued, tensor)


def _serve(backend: str, rank: int, size: int, meeting: str, pipe: Connection) -> None:
    """A rank's process: runs the programs it is sent until its pipe closes."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(minutes=5)
    )

    def agree(own: int, issued: Collective, tensor: Tensor) -> list[Tensor]:
        pipe.send_bytes(pickle.dumps(("collective", issued)))
        if not pickle.loads(pipe.recv_bytes())[1]:
            raise _Abandoned
        return [tensor]

    while True:
        try:
            _, program = pickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)
        try:
            answer = ("returned", cloudpickle.loads(program)(_ProcessGroup(rank, size, agree)))
        except _Abandoned:
            answer = ("abandoned", None)
        except BaseException as error:
            answer = ("raised", error)
        pipe.send_bytes(_sendable(answer))


class _ResultPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends parameters as plain tensors: a parameter would take its weight loader, and so its layer, along."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor) and type(obj) is not Tensor:
            return torch.clone, (obj.detach().as_subclass(Tensor),)
        return super().reducer_override(obj)


def _sendable(answer: tuple[str, Any]) -> bytes:
    try:
        buffer = io.BytesIO()
        _ResultPickler(buffer).dump(answer)
        return buffer.getvalue()
    except Exception as error:  # an exception, or a result, that cannot travel is told in words
        return pickle.dumps(("raised", RuntimeError(f"{type(answer[1]).__name__}: {answer[1]} ({error})")))
