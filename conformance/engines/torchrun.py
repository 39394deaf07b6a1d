"""The suite inside a job of torchrun: every process of the job is a rank, on one machine or several.

    torchrun --nproc-per-node 2 -m pytest conformance/ --engine torchrun

Rank 0 draws, judges and reports, and is a rank of every case as well; the others serve. Cases of TP 1 and of the
job's size run, the rest are not applicable. A rank that dies or hangs cannot be replaced: its case is an error that
names it, and the run ends.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener, Pipe
from typing import Any, TypeVar

import cloudpickle
import torch
import torch.distributed as dist

from conformance.engines.coordination import Coordination, Lines
from conformance.engines.distributed import BACKENDS, COLLECTIVE_TIMEOUT, WATCHDOG_SECONDS
from conformance.engines.ranks import RankGroup, RankHung, RankLost, alone
from conformance.engines.serving import be_a_rank, serve

T = TypeVar("T")


class NoJob(Exception):
    """This process was not started by torchrun."""

    def __init__(self) -> None:
        super().__init__(
            "--engine torchrun takes its ranks from torchrun, which has not started this process: "
            "torchrun --nproc-per-node 2 -m pytest conformance/ --engine torchrun"
        )


class TorchrunEngine:
    """The job's ranks, seen from rank 0; ``lost`` is what ended the job, if something has."""

    name = "torchrun"

    def __init__(self, lines: Lines, watchdog_seconds: float = WATCHDOG_SECONDS) -> None:
        self.lost: RankHung | RankLost | None = None
        self._lines = lines
        self._watchdog = watchdog_seconds

    def unsupported(self, size: int) -> str | None:
        """See `Engine.unsupported`."""
        return None if size in (1, self._lines.size) else f"the job has {self._lines.size} ranks, {size} are needed"

    def run(self, size: int, program: Callable[[RankGroup], T]) -> list[T]:
        """See `Engine.run`; once a rank is lost, all that need it are."""
        if size == 1:
            return [alone(program)]
        if self.lost is not None:
            raise self.lost
        try:
            return Coordination(self._lines, self._watchdog).run(cloudpickle.dumps(program))
        except (RankHung, RankLost) as error:
            self.lost = error
            raise

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()  # a program that travels to a rank does not take the ranks along

    def close(self) -> None:
        """Ends every rank; a job that has lost one is torchrun's to end."""
        self._lines.close()
        if self.lost is None:
            dist.destroy_process_group()


def join(device: str) -> TorchrunEngine | None:
    """Joins the job: the engine on rank 0; on the others None, after they have served until rank 0 ended.

    Raises:
        NoJob: there is none.
    """
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        raise NoJob
    _take_device(device)
    dist.init_process_group(BACKENDS["nccl" if device == "cuda" else "gloo"], timeout=COLLECTIVE_TIMEOUT)
    rank, size = dist.get_rank(), dist.get_world_size()
    meeting: list[Any] = [None]
    if rank:
        dist.broadcast_object_list(meeting, src=0)
        address, key = meeting[0]
        line = Client(address, authkey=key)
        line.send(rank)
        be_a_rank(rank, size, line)
        return None
    key = secrets.token_bytes(32)
    with Listener((os.environ["MASTER_ADDR"], 0), backlog=size, authkey=key) as listener:
        dist.broadcast_object_list([(listener.address, key)], src=0)
        lines = {0: _line_to_itself(device, size)}
        while len(lines) < size:
            line = listener.accept()
            lines[line.recv()] = line
    engine = TorchrunEngine(Lines([lines[rank] for rank in range(size)], lambda rank: _lost(rank, size)))
    signal.signal(signal.SIGTERM, lambda number, frame: _terminated(engine))
    return engine


def _take_device(device: str) -> None:
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _line_to_itself(device: str, size: int) -> Connection:
    """The line to rank 0's own programs, which run in a thread of this process."""
    ours, theirs = Pipe()

    def serve_beside() -> None:
        _take_device(device)
        serve(0, size, theirs)

    threading.Thread(target=serve_beside, daemon=True).start()
    return ours


def _lost(rank: int, size: int) -> RankLost:
    return RankLost(f"the process of rank {rank} of {size} died; a job of torchrun does not replace it")


def _terminated(engine: TorchrunEngine) -> None:
    """Torchrun ends the job when a rank dies: if that is what is being reported, it may be finished."""
    if engine.lost is None:
        raise KeyboardInterrupt("torchrun ended the job")
