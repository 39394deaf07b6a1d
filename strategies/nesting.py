"""Wrapper nesting around a layer."""

from __future__ import annotations

from functools import cache

from hypothesis.strategies import SearchStrategy

from strategies.cases import WrapperKind
from strategies.choices import sequences

MAX_DEPTH = 6


@cache
def nestings(
    *, min_depth: int = 0, max_depth: int = MAX_DEPTH, kinds: tuple[WrapperKind, ...] = tuple(WrapperKind)
) -> SearchStrategy[tuple[WrapperKind, ...]]:
    """Wrappers around a layer, outermost first; shrinks to none."""
    return sequences(kinds, min_size=min_depth, max_size=max_depth, what="nesting")
