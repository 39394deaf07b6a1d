"""Cheap draws: strategies made once for each set of choices, and sequences that cost two draws at any length.

Hypothesis follows every case with up to five in which one draw is copied over another that looks like it. Of a case
of twenty choices that is the same case again, and five sixths of a budget are gone. So no two draws of a case look
alike: each says ``what`` it is. (The suite has every case drawn independently, see `conformance.search.drawing`.)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import TypeVar
from zlib import crc32

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


@cache
def numbers(count: int, what: str) -> SearchStrategy[int]:
    """An integer from 0 to ``count - 1``; shrinks to 0."""
    return _told_apart(count, what, lambda number: number)


@cache
def sampled(choices: tuple[T, ...], what: str = "") -> SearchStrategy[T]:
    """One of ``choices``; shrinks to the first. A single choice costs no draw."""
    if len(choices) == 1:
        return st.just(choices[0])
    return _told_apart(len(choices), what, choices.__getitem__) if what else st.sampled_from(choices)


@cache
def mostly(few: tuple[T, ...], many: tuple[T, ...], what: str) -> SearchStrategy[T]:
    """One of ``few``, in one case of about twenty-four one of ``many``; shrinks to the first of ``few``."""
    return sampled((*few * (1 + 23 * len(many) // len(few)), *many), what)


@cache
def sequences(choices: tuple[T, ...], *, min_size: int, max_size: int, what: str) -> SearchStrategy[tuple[T, ...]]:
    """Tuples of ``choices``, of every length alike; shrinks to the shortest of the first choice."""
    sizes = sampled(tuple(range(min_size, max_size + 1)), f"length of {what}")

    def of_size(size: int) -> SearchStrategy[tuple[T, ...]]:
        return _of_size(choices, size, what)

    return sizes.flatmap(of_size)


@cache
def _of_size(choices: tuple[T, ...], size: int, what: str) -> SearchStrategy[tuple[T, ...]]:
    def decoded(code: int) -> tuple[T, ...]:
        items = []
        for _ in range(size):
            code, index = divmod(code, len(choices))
            items.append(choices[index])
        return tuple(items)

    def anyhow(seed: int) -> tuple[T, ...]:
        return tuple(random.Random(seed).choices(choices, k=size)) if seed else choices[:1] * size

    count = len(choices) ** size
    return _told_apart(count, what, decoded) if count < _MOST else _told_apart(_MOST, what, anyhow)


_MOST = 2**32  # of sequences that one draw tells apart


def _told_apart(count: int, what: str, value: Callable[[int], T]) -> SearchStrategy[T]:
    """``value`` of a number from 0 to ``count - 1``, in one draw; Hypothesis tells draws apart by their elements."""
    start = crc32(what.encode()) << 32
    return st.sampled_from(range(start, start + count)).map(lambda number: value(number - start))
