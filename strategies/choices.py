"""`sampled_from`, made once for each set of choices: building and validating a strategy costs more than a draw."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


@cache
def sampled(choices: tuple[T, ...]) -> SearchStrategy[T]:
    """One of ``choices``; shrinks to the first. A single choice costs no draw."""
    return st.just(choices[0]) if len(choices) == 1 else st.sampled_from(choices)
