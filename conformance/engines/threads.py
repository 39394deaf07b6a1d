"""The default engine: every rank is a thread of this process, and they run one at a time.

A baton goes round: a rank runs until it reaches a collective or ends, then the next one runs. Nothing depends on
timing, so a run is reproducible, and a rank that skips a collective is noticed at once, when all others wait for it
and nobody can run, instead of by a time-out. Only a rank that never reaches anything is left to a watchdog.
"""

from __future__ import annotations

import enum
import functools
import gc
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from conformance.engines.ranks import (
    Collective,
    CollectiveMismatch,
    RankFailed,
    RankGroup,
    RankHung,
    alone,
    disagreement,
)

T = TypeVar("T")
WATCHDOG_SECONDS = 60.0
_MAX_SIZE = 32


class ThreadsEngine:
    """Ranks as threads, kept between runs."""

    name = "threads"

    def __init__(self, watchdog_seconds: float = WATCHDOG_SECONDS) -> None:
        self._watchdog = watchdog_seconds
        self._workers: list[_Worker] = []

    def unsupported(self, size: int) -> str | None:
        """See `Engine.unsupported`."""
        return f"engine {self.name} has {_MAX_SIZE} ranks, {size} are needed" if size > _MAX_SIZE else None

    def run(self, size: int, program: Callable[[RankGroup], T]) -> list[T]:
        """See `Engine.run`."""
        if size == 1:
            return [alone(program)]
        while len(self._workers) < size:
            self._workers.append(_Worker())
        round_ = _Round(size, program, self._workers[:size])
        try:
            return round_.finish(self._watchdog)
        except RankHung:
            self._workers = []  # their threads are daemons; a hung one must not serve another case
            raise

    def close(self) -> None:
        """Nothing is to be ended: the threads are daemons."""


def _baton() -> threading.Lock:
    """A lock that one thread waits for and another releases: a semaphore at a tenth of the cost."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Worker(threading.Thread):
    """A thread that runs one rank's program after another."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.wake = _baton()
        self.task: Callable[[], None] | None = None
        self.start()

    def run(self) -> None:
        torch.set_grad_enabled(False)
        while True:
            self.wake.acquire()
            task, self.task = self.task, None
            if task is not None:
                task()


class _Abandoned(BaseException):
    """Unwinds a rank that waits for a collective that will not happen."""


class _State(enum.Enum):
    READY = "can run"
    WAITING = "waits in a collective"
    ENDED = "has ended"


class _Round:
    """One program on all ranks; only the rank that holds the baton touches it."""

    def __init__(self, size: int, program: Callable[[RankGroup], Any], workers: list[_Worker]) -> None:
        self._workers = workers
        self._states = [_State.READY] * size
        self._posted: dict[int, tuple[Collective, Tensor]] = {}
        self._gathered: list[Tensor] | None = None
        self._values: list[Any] = [None] * size
        self._errors: dict[int, BaseException] = {}
        self._mismatch: CollectiveMismatch | None = None
        self._done = _baton()
        self._running = 0
        self._groups = [RankGroup(rank, size, self._exchange) for rank in range(size)]
        for rank, worker in enumerate(workers):
            worker.task = functools.partial(self._run_rank, rank, program)
        workers[0].wake.release()

    def finish(self, watchdog: float) -> list[Any]:
        if not self._done.acquire(timeout=watchdog):
            raise RankHung(self._whereabouts(watchdog))
        if self._mismatch is not None:
            raise self._mismatch
        for rank, error in sorted(self._errors.items()):
            raise RankFailed(rank, len(self._states), error) from error
        return self._values

    def _run_rank(self, rank: int, program: Callable[[RankGroup], Any]) -> None:
        self._running = rank
        try:
            self._values[rank] = program(self._groups[rank])
        except _Abandoned:
            pass
        except BaseException as error:
            self._errors[rank] = error
        self._states[rank] = _State.ENDED
        self._pass_on()

    def _exchange(self, rank: int, issued: Collective, tensor: Tensor) -> list[Tensor]:
        # Cloned, because the rank that resumes first may write to what it has handed over.
        self._posted[rank] = (issued, tensor.clone())
        self._states[rank] = _State.WAITING
        self._pass_on()
        self._workers[rank].wake.acquire()
        self._running = rank
        if self._gathered is None:
            raise _Abandoned
        return self._gathered

    def _pass_on(self) -> None:
        """Gives the baton to the next rank that can run, after the collective that all wait for has happened."""
        if _State.READY not in self._states:
            if _State.WAITING not in self._states:
                self._done.release()
                return
            self._meet()
        self._workers[self._states.index(_State.READY)].wake.release()

    def _meet(self) -> None:
        """Every rank waits or has ended: do the collective, or unwind where they disagree or one has died."""
        if self._mismatch is None and not self._errors:
            waiting = {rank: issued for rank, (issued, _) in self._posted.items()}
            last = {rank: group.log[-1] for rank, group in enumerate(self._groups) if group.log}
            self._mismatch = disagreement(len(self._states), waiting, last)
        agreed = self._mismatch is None and not self._errors
        self._gathered = [self._posted[rank][1] for rank in sorted(self._posted)] if agreed else None
        for rank in self._posted:
            self._states[rank] = _State.READY
        self._posted = {}

    def _whereabouts(self, watchdog: float) -> str:
        # A collection inside of it may hand the interpreter to a thread that waits for the lock it holds: for ever.
        gc.disable()
        try:
            frame = sys._current_frames().get(self._workers[self._running].ident or 0)
        finally:
            gc.enable()
        stack = "".join(traceback.format_stack(frame, limit=4)) if frame else "unknown"
        return (
            f"rank {self._running} of {len(self._states)} neither ended nor reached a collective within "
            f"{watchdog:g} s; it is at\n{stack}"
        )
