"""Who is evicted: the least recently used that is not pinned."""

from __future__ import annotations

from collections.abc import Iterator


class Places:
    """Holders of a limited number of places, least recently used first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._holders: dict[int, None] = {}

    def __contains__(self, holder: int) -> bool:
        return holder in self._holders

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._holders))

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def full(self) -> bool:
        return len(self._holders) >= self.capacity

    def use(self, holder: int) -> None:
        """Gives ``holder`` a place if it has none, and makes it the most recently used."""
        self._holders.pop(holder, None)
        self._holders[holder] = None

    def free(self, holder: int) -> None:
        """Takes the place away, if there is one."""
        self._holders.pop(holder, None)

    def victim(self, pinned: set[int]) -> int | None:
        """The least recently used holder that is not pinned, or None."""
        return next((holder for holder in self._holders if holder not in pinned), None)
