"""What happened, by name. What each name means is in docs/anomalies.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

UNEXPLAINED = "unexplained"
T = TypeVar("T")


def constant(value: T) -> Callable[[int], T]:
    """The same for every rank."""
    return lambda rank: value


def moved(shift: int, ranks: int) -> Callable[[int], int]:
    """The rank that comes ``shift`` places after one."""
    return lambda rank: (rank + shift) % ranks


P = ParamSpec("P")


def unexplained_if_it_fails(explain: Callable[P, str]) -> Callable[P, str]:
    """Makes an explanation that raises give ``unexplained``: it must not hide the failure that it is to name."""

    @wraps(explain)
    def explained(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return explain(*args, **kwargs)
        except Exception:
            return UNEXPLAINED

    return explained
