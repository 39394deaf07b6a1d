"""Cheap draws: strategies made once for each set of choices, and sequences that cost two draws at any length."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

T = TypeVar("T")


@cache
def sampled(choices: tuple[T, ...]) -> SearchStrategy[T]:
    """One of ``choices``; shrinks to the first. A single choice costs no draw."""
    return st.just(choices[0]) if len(choices) == 1 else st.sampled_from(choices)


@cache
def sequences(choices: tuple[T, ...], *, min_size: int, max_size: int) -> SearchStrategy[tuple[T, ...]]:
    """Tuples of ``choices``; shrinks to the shortest, and in it to the first choice everywhere."""
    return _sequences(choices, sampled(tuple(range(min_size, max_size + 1))))


@composite
def _sequences(draw: DrawFn, choices: tuple[T, ...], sizes: SearchStrategy[int]) -> tuple[T, ...]:
    size = draw(sizes)
    code = draw(_codes(len(choices) ** size))
    items = []
    for _ in range(size):
        code, index = divmod(code, len(choices))
        items.append(choices[index])
    return tuple(items)


@cache
def _codes(count: int) -> SearchStrategy[int]:
    return st.integers(0, count - 1)
