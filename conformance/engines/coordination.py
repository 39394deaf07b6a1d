"""The parent's side of a group of real ranks: one program on all of them, and agreement before every collective.

Before a collective each rank says what it is about to issue; all go on once they agree. So a mismatch or a missing
rank is a finding with both call sites, and the backend is never left in a collective that some ranks have entered.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from conformance.engines.ranks import Collective, CollectiveMismatch, RankFailed, RankHung, RankLost, disagreement

Message = tuple[str, Any]


class Lines:
    """The parent's connections to its ranks, in rank order; ``lost`` makes the error for a rank that is gone."""

    def __init__(self, connections: Sequence[Connection], lost: Callable[[int], RankLost]) -> None:
        self._connections = list(connections)
        self._lost = lost

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self._connections)

    def ready(self, ranks: Sequence[int], seconds: float) -> list[int]:
        """Those of ``ranks`` that have something to say, as soon as one has; none after so many seconds."""
        found = wait([self._connections[rank] for rank in ranks], seconds)
        return [rank for rank in ranks if self._connections[rank] in found]

    def receive(self, rank: int) -> Message:
        """What a rank says.

        Raises:
            RankLost: it is gone.
        """
        try:
            message: Message = pickle.loads(self._connections[rank].recv_bytes())
        except (EOFError, OSError):
            raise self._lost(rank) from None
        return message

    def send(self, rank: int, message: Message) -> None:
        """Says something to a rank.

        Raises:
            RankLost: it is gone.
        """
        try:
            self._connections[rank].send_bytes(pickle.dumps(message))
        except OSError:
            raise self._lost(rank) from None

    def close(self) -> None:
        """Tells the ranks to end, and hangs up."""
        for connection in self._connections:
            with suppress(OSError):  # it is gone already, or hung up on
                connection.send_bytes(pickle.dumps(("end", None)))
            connection.close()


class Coordination:
    """One program on all ranks, as the parent sees it."""

    def __init__(self, lines: Lines, watchdog_seconds: float) -> None:
        self._lines = lines
        self._size = lines.size
        self._watchdog = watchdog_seconds
        self._running = set(range(self._size))
        self._waiting: dict[int, Collective] = {}
        self._last: dict[int, Collective] = {}
        self._ended: dict[int, Message] = {}
        self._mismatch: CollectiveMismatch | None = None

    def run(self, program: bytes) -> list[Any]:
        """The results of a pickled program in rank order; raises as `Engine.run` does."""
        for rank in range(self._size):
            self._lines.send(rank, ("run", program))
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
        ranks = self._lines.ready(sorted(self._running), self._watchdog)
        if not ranks:
            raise RankHung(
                f"ranks {sorted(self._running)} of {self._size} neither ended nor reached a collective within "
                f"{self._watchdog:g} s; " + "; ".join(f"rank {r} waits in {c}" for r, c in self._waiting.items())
            )
        for rank in ranks:
            kind, value = self._lines.receive(rank)
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
            self._lines.send(rank, ("collective", agreed))
        self._waiting = {}
