"""SGLang's parallel state, of which every thread sees its own rank."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.sglang.runtime import runtime, without_compiling, without_pinning

_thread = threading.local()


@contextmanager
def ranked(group: RankGroup) -> Iterator[None]:
    """Makes ``group`` what SGLang's layers in this thread find as their tensor-parallel group."""
    before = getattr(_thread, "known", {})
    _thread.known = _known_of(group)
    without_compiling()
    try:
        with without_pinning():
            yield
    finally:
        _thread.known = before


def install() -> None:
    """Puts the parallel state of this process in place: the published one, but for what a thread's rank decides."""
    context = runtime().context
    published = context.get_parallel()

    def read(self: Any, name: str) -> Any:
        known: Mapping[str, object] = getattr(_thread, "known", {})
        return known[name] if name in known else published._read(name)

    state = type("RankParallel", (context.ParallelContext,), {"__slots__": (), "_read": read})()
    context._PARALLEL = context.get_context().parallel = state


@dataclass(frozen=True, slots=True)
class TensorParallelStandIn:
    """Stands in for the `GroupCoordinator` of one rank, with what SGLang's linear and LoRA layers read of it.

    Collectives go through the `RankGroup`, so the engine logs and compares them.
    """

    group: RankGroup
    cpu_group: None = None  # for logprobs, which nobody asks for here

    @property
    def world_size(self) -> int:
        return self.group.size

    @property
    def rank_in_group(self) -> int:
        return self.group.rank

    def all_gather(self, input_: Tensor, dim: int = -1) -> Tensor:
        """As SGLang's group of one, which issues nothing."""
        return input_ if self.group.size == 1 else self.group.all_gather(input_, dim)

    def all_reduce(self, input_: Tensor) -> Tensor:
        return input_ if self.group.size == 1 else self.group.all_reduce(input_)


@dataclass(frozen=True, slots=True)
class LastStage:
    """Stands in for the pipeline group: one stage, which is the last."""

    is_last_rank: bool = True


def _known_of(group: RankGroup) -> dict[str, object]:
    """Attention has the ranks that the rest has; there is one pipeline stage, and experts are cut as layers are."""
    stand_in = TensorParallelStandIn(group)
    cut: dict[str, object] = {}
    for prefix in ("tp", "attn_tp", "moe_tp"):
        cut |= {f"{prefix}_size": group.size, f"{prefix}_rank": group.rank, f"{prefix}_group": stand_in}
    return cut | {"moe_ep_size": 1, "moe_ep_rank": 0, "pp_group": LastStage()}
