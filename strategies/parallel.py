"""Tensor-parallel sizes."""

from __future__ import annotations

from hypothesis.strategies import SearchStrategy

from strategies.choices import sampled

TP_SIZES = (1, 2, 4, 8, 16, 32)
# A case costs about as much as it has ranks, and what four ranks hide sixteen rarely show; the weights keep the
# average near three.
_WEIGHTS = {1: 12, 2: 12, 4: 6, 8: 2, 16: 1, 32: 1}


def tensor_parallel_sizes(*, sizes: tuple[int, ...] = TP_SIZES) -> SearchStrategy[int]:
    """Group sizes, the small ones more often; shrinks to the smallest."""
    return sampled(
        tuple(size for size in sorted(sizes) for _ in range(_WEIGHTS.get(size, 1) if len(sizes) > 1 else 1))
    )
