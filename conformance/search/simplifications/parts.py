"""What the simplifications of every kind of case are made of: a field as it is by default, an item less or plainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

from strategies.adapters import MAX_RANKS

S = TypeVar("S")
T = TypeVar("T")


def by_default(spec: S, *names: str) -> Iterator[S]:
    """The dataclass with one of these fields, or of all, as it is by default, where it is not."""
    defaults = {field.name: field.default for field in fields(spec)}  # type: ignore[arg-type]
    for name in names or defaults:
        yield from changed(spec, {name: defaults[name]})


def changed(spec: S, *changes: dict[str, Any]) -> Iterator[S]:
    """The dataclass with each of these changes, where it is one."""
    for change in changes:
        other = replace(spec, **change)  # type: ignore[type-var]
        if other != spec:
            yield other


def put(items: tuple[T, ...], at: int, *others: T) -> tuple[T, ...]:
    """The items with others, or with none, in the place of one."""
    return (*items[:at], *others, *items[at + 1 :])


def one_less(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """The items without one of them."""
    yield from (put(items, at) for at in range(len(items)))


def one_plainer(items: tuple[T, ...], plainer: Callable[[T], Iterable[T]]) -> Iterator[tuple[T, ...]]:
    """The items with one of them plainer."""
    for at, item in enumerate(items):
        yield from (put(items, at, other) for other in plainer(item))


def less(size: int, few: int) -> list[int]:
    """Smaller sizes than ``size``, the smallest first, if it is more than ``few``."""
    if size <= few:
        return []
    return sorted({few, size // 2, size - size // 4, size - size // 8, size - 1} & {*range(1, size)})


def max_ranks(most: int, needed: Iterable[int]) -> Iterator[dict[str, int]]:
    """Smaller largest ranks than ``most``, as changes, with room for those needed."""
    least = max(needed, default=1)
    yield from ({"max_rank": rank} for rank in MAX_RANKS if least <= rank < most)
