"""Wrapper nesting around a layer."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from strategies.cases import WrapperKind

MAX_DEPTH = 6


def nestings(*, min_depth: int = 0, max_depth: int = MAX_DEPTH) -> SearchStrategy[tuple[WrapperKind, ...]]:
    """Wrappers around a layer, outermost first; shrinks to none."""
    return st.lists(st.sampled_from(WrapperKind), min_size=min_depth, max_size=max_depth).map(tuple)
