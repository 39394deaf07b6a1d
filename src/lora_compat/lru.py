"""Who is evicted: the least recently used that is not pinned."""

from __future__ import annotations

from collections.abc import Iterator

from lora_compat.errors import FullHouseError


class Places:
    """Holders of a limited number of places, least recently used first."""

    def __init__(self, capacity: int, place: str, setting: str, evict: bool) -> None:
        self.capacity = capacity
        self.place, self.setting, self.evict = place, setting, evict
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

    def victim_for_one_more(self, pinned: set[int]) -> int | None:
        """Who leaves so that one more fits; None where nobody has to.

        Raises:
            FullHouseError: every place is taken, and nobody may be evicted.
        """
        if not self.full:
            return None
        victim = self.victim(pinned) if self.evict else None
        if victim is None:
            why = "and all are pinned" if self.evict else "and nobody is evicted here"
            raise FullHouseError(self.place, self.capacity, self, self.setting, why)
        return victim

    def victim(self, pinned: set[int]) -> int | None:
        """The least recently used holder that is not pinned, or None."""
        return next((holder for holder in self._holders if holder not in pinned), None)
