"""What happened, by name. What each name means is in docs/anomalies.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

UNEXPLAINED = "unexplained"
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
