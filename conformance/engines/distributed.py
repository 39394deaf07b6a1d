"""Real ranks: the same programs in processes of their own, over `torch.distributed` (gloo, or nccl on GPUs).

The ranks are started once and kept. A rank that dies or hangs takes its pool down; the next case gets a new one.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import cloudpickle
import torch
import torch.distributed as dist

from conformance.engines.coordination import Coordination, Lines
from conformance.engines.ranks import RankGroup, RankHung, RankLost, alone
from conformance.engines.serving import be_a_rank

T = TypeVar("T")
WATCHDOG_SECONDS = 120.0
# The right answer is computed on the CPU, with collectives of its own, wherever the layers under test live.
BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}
_OURS = {"conformance", "lora_compat", "strategies"}
_FAREWELL_SECONDS = 5.0
# Longer than the watchdog, so that who hangs is said by rank and call site, not by the backend's own time-out.
COLLECTIVE_TIMEOUT = timedelta(minutes=5)


class DistributedEngine:
    """Ranks as processes, kept between runs; pools of each size are started when first needed."""

    def __init__(
        self, backend: str = "gloo", *, max_size: int = 8, watchdog_seconds: float = WATCHDOG_SECONDS
    ) -> None:
        self.name = backend
        self._max_size = max_size
        self._watchdog = watchdog_seconds
        self._context = _context(backend)
        self._pools: dict[int, _Pool] = {}

    def unsupported(self, size: int) -> str | None:
        """See `Engine.unsupported`."""
        return f"engine {self.name} has {self._max_size} ranks, {size} are needed" if size > self._max_size else None

    def run(self, size: int, program: Callable[[RankGroup], T]) -> list[T]:
        """See `Engine.run`."""
        if size == 1:
            return [alone(program)]
        if size not in self._pools:
            self._pools[size] = _Pool(self._context, self.name, size)
        try:
            return Coordination(self._pools[size].lines, self._watchdog).run(cloudpickle.dumps(program))
        except (RankHung, RankLost):
            self._pools.pop(size).kill()
            raise

    def __reduce__(self) -> tuple[type[DistributedEngine], tuple[str]]:
        return type(self), (self.name,)  # a program that travels to a rank does not take the ranks along

    def close(self) -> None:
        """Ends every rank."""
        while self._pools:
            self._pools.popitem()[1].close()


def _context(backend: str) -> Any:
    """How ranks are made: forked, for then everything is imported already.

    CUDA does not survive a fork, so gloo serves no GPU, and nccl forks from a server that has imported what this
    process has, and does so meanwhile.
    """
    if backend == "gloo":
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in sys.modules if name.partition(".")[0] in _OURS])
    forkserver.ensure_running()
    return context


class _Pool:
    """The processes of one group size."""

    def __init__(self, context: Any, backend: str, size: int) -> None:
        self._meeting = tempfile.TemporaryDirectory(prefix="lora_compat_ranks_")
        self._processes: list[Any] = []
        lines: list[Connection] = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (backend, rank, size, f"{self._meeting.name}/store", theirs)
            process = context.Process(target=_join, args=arguments, daemon=True)
            process.start()
            theirs.close()
            lines.append(ours)
            self._processes.append(process)
        self.lines = Lines(lines, self._lost)

    def close(self) -> None:
        """Hangs up, and gives the ranks time to clear away what they have made."""
        self.lines.close()
        for process in self._processes:
            process.join(timeout=_FAREWELL_SECONDS)
        self.kill()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self.lines.close()
        self._meeting.cleanup()

    def _lost(self, rank: int) -> RankLost:
        self._processes[rank].join(timeout=5)
        code = self._processes[rank].exitcode
        return RankLost(f"the process of rank {rank} of {self.lines.size} died with exit code {code}")


def _join(backend: str, rank: int, size: int, meeting: str, line: Connection) -> None:
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        BACKENDS[backend], init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
    )
    be_a_rank(rank, size, line)
