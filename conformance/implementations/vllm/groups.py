"""vLLM's tensor-parallel group, ``parallel_state._TP``: its own where ranks are processes, else a stand-in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.util import Finalize
from typing import Any

import torch.distributed as dist
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.engines.serving import ProcessGroup
from conformance.implementations.vllm.runtime import runtime

_thread = threading.local()


@contextmanager
def ranked(group: RankGroup) -> Iterator[None]:
    """Makes ``group`` what vLLM's layers in this thread find as their tensor-parallel group."""
    runtime().parallel_state._TP = own_group(group.size) if isinstance(group, ProcessGroup) else stand_in()
    before = getattr(_thread, "group", None)
    _thread.group = group
    try:
        yield
    finally:
        _thread.group = before


@cache
def own_group(size: int) -> Any:
    """vLLM's own `GroupCoordinator` of this process, which is one of ``size`` ranks; set up once, by all of them.

    Its `all_gather` and `all_reduce`, all that vLLM's linear layers and their LoRA layers issue, are announced to the
    engine before they happen, so that ranks that disagree are a finding and not a hang.
    """
    state = runtime().parallel_state
    state._TP = None  # a forked process has its parent's stand-in
    state.init_distributed_environment(
        size, dist.get_rank(), "env://", int(os.environ.get("LOCAL_RANK", dist.get_rank())), dist.get_backend()
    )
    state.initialize_model_parallel(tensor_model_parallel_size=size)
    Finalize(None, state.destroy_model_parallel, exitpriority=1)  # or its shared memory is left behind
    for kind in ("all_gather", "all_reduce"):
        setattr(state._TP, kind, _announced(kind, getattr(state._TP, kind)))
    return state._TP


def _announced(kind: str, issue: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def announced(input_: Tensor, dim: int = -1) -> Tensor:
        group = _group()
        assert isinstance(group, ProcessGroup)
        if kind == "all_reduce":
            group.announce(kind, input_, None)
            return issue(input_)
        group.announce(kind, input_, dim % input_.dim())
        return issue(input_, dim)

    return announced


class TensorParallelStandIn:
    """Stands in for the `GroupCoordinator` where every rank is a thread.

    One object serves the whole process; which rank it is, and of how many, is what the calling thread has said in
    `ranked`. Collectives go through that thread's `RankGroup`, so the engine logs and compares them. It has what
    vLLM's linear layers and their LoRA layers read, in all supported releases; anything else fails loudly.
    """

    unique_name = "tp:conformance"
    device_group = None  # of torch's processes, which some models hold on to for a forward that is not run here

    @property
    def world_size(self) -> int:
        return _group().size

    @property
    def rank_in_group(self) -> int:
        return _group().rank

    @property
    def ranks(self) -> list[int]:
        return list(range(_group().size))

    def all_gather(self, input_: Tensor, dim: int = -1) -> Tensor:
        group = _group()
        return input_ if group.size == 1 else group.all_gather(input_, dim)  # as vLLM's group of one: nothing issued

    def all_reduce(self, input_: Tensor) -> Tensor:
        group = _group()
        return input_ if group.size == 1 else group.all_reduce(input_)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the stand-in for vLLM's tensor-parallel group has no {name!r}: add it, with its meaning"
        )


class Stage:
    """Stands in for vLLM's group of pipeline stages, which loading asks for layers and nothing else.

    Which stage it is, and of how many, is what the calling thread has said in `staged`; the rest is the ``group``'s.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    @property
    def rank_in_group(self) -> int:
        return _stage()[0]

    @property
    def world_size(self) -> int:
        return _stage()[1]

    @property
    def is_first_rank(self) -> bool:
        return _stage()[0] == 0

    @property
    def is_last_rank(self) -> bool:
        return _stage()[0] == _stage()[1] - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)


class MissingLayers:
    """Stands in for what vLLM remembers by the ids of models: which layers other stages have.

    A later model of this process may have an id again; what a thread remembers ends with its next load, in `staged`.
    """

    def __contains__(self, model: int) -> bool:
        return model in _missing()

    def __getitem__(self, model: int) -> list[str]:
        return _missing()[model]

    def __setitem__(self, model: int, names: list[str]) -> None:
        _missing()[model] = names


def _missing() -> dict[int, list[str]]:
    names: dict[int, list[str]] = vars(_thread).setdefault("missing", {})
    return names


@contextmanager
def staged(stage: tuple[int, int]) -> Iterator[None]:
    """Has this thread's models be one stage of a pipeline, out of so many."""
    before = _stage()
    _thread.stage, _thread.missing = stage, {}
    try:
        yield
    finally:
        _thread.stage = before


def _stage() -> tuple[int, int]:
    return getattr(_thread, "stage", (0, 1))


@cache
def stand_in() -> TensorParallelStandIn:
    """The one of this process."""
    return TensorParallelStandIn()


def _group() -> RankGroup:
    group: RankGroup | None = getattr(_thread, "group", None)
    if group is None:
        raise RuntimeError("vLLM's tensor-parallel group was read outside VllmLayers.ranked(group)")
    return group
