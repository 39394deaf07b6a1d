"""A rank's side: a process of `torch.distributed` that runs the programs it is sent, until it is told to end."""

from __future__ import annotations

import gc
import io
import pickle
import signal
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor

from conformance.engines.ranks import Collective, RankGroup, keep_site


class _Abandoned(BaseException):
    """Unwinds a rank whose collective will not happen."""


class ForeignDevice(RuntimeError):
    """A rank was about to issue a collective on another rank's GPU, for which nccl would wait for ever."""

    def __init__(self, rank: int, kind: str, device: torch.device, own: int) -> None:
        super().__init__(f"rank {rank}: {kind} of a tensor on {device}, but the rank's own device is cuda:{own}")


class ProcessGroup(RankGroup):
    """A rank's group over `torch.distributed`, whose default group it spans."""

    __slots__ = ()

    def all_gather(self, tensor: Tensor, dim: int = -1) -> Tensor:
        dim = dim % tensor.dim()
        own = tensor.contiguous()
        self.announce("all_gather", own, dim)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return torch.cat(parts, dim=dim)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        self.announce("all_reduce", total, None)
        dist.all_reduce(total)
        return total

    def announce(self, kind: str, tensor: Tensor, dim: int | None) -> None:
        """Returns once every rank is about to issue the same collective, over whoever's group it goes.

        Raises:
            ForeignDevice: the tensor lies on another GPU than the rank's.
        """
        if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
            raise ForeignDevice(self.rank, kind, tensor.device, torch.cuda.current_device())
        self.exchange(self.rank, self.issued(kind, tensor, dim), tensor)


def be_a_rank(rank: int, size: int, line: Connection) -> None:
    """Serves in a process that is nothing else, and ends its process group whichever way that ends.

    An interrupt from the keyboard goes to every process: who draws and judges is interrupted, and hangs up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(rank, size, line)
    finally:
        dist.destroy_process_group()


def serve(rank: int, size: int, line: Connection) -> None:
    """Runs programs as rank ``rank`` until it is told to end or its line is closed; `torch.distributed` is set up."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    gc.freeze()  # imported modules are a million objects that every full collection would walk

    def agree(own: int, issued: Collective, tensor: Tensor) -> list[Tensor]:
        line.send_bytes(pickle.dumps(("collective", issued)))
        if not pickle.loads(line.recv_bytes())[1]:
            raise _Abandoned
        return [tensor]

    while True:
        try:
            kind, program = pickle.loads(line.recv_bytes())
            if kind == "end":
                return
            line.send_bytes(_sendable(_outcome(program, ProcessGroup(rank, size, agree))))
        except (EOFError, OSError):
            return


def _outcome(program: bytes, group: ProcessGroup) -> tuple[str, Any]:
    try:
        return "returned", cloudpickle.loads(program)(group)
    except _Abandoned:
        return "abandoned", None
    except BaseException as error:
        return "raised", keep_site(error)


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
