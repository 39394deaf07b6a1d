"""What the exact regime asks of a scaling: that no product with it rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable

from strategies.codec import ImpossibleCase


def require_exact(scalings: Iterable[float]) -> None:
    """Returns where every scaling is a power of two, or none at all.

    Raises:
        ImpossibleCase: another one, with which small integers give values that no binary number holds.
    """
    for scaling in scalings:
        if abs(math.frexp(scaling)[0]) not in (0.5, 0.0):
            raise ImpossibleCase(
                f"the exact regime needs scalings that are powers of two, received {scaling!r}; "
                f"{nearest_exact(scaling):g} would be exact, and Regime.ROUNDED takes any"
            )


def nearest_exact(scaling: float) -> float:
    """The power of two next to a positive ``scaling``, by their ratio."""
    return 2.0 ** round(math.log2(scaling)) if math.isfinite(scaling) and scaling > 0 else 1.0
