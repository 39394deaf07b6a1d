"""The names that stand in a class's own source: what its weight loader may call its shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any


@lru_cache(maxsize=1024)
def names_in(cls: Any, base: Any) -> tuple[str, ...]:
    """Names among the constants of the class's methods and attributes, and its ancestors' below ``base``."""
    found: set[str] = set()
    for ancestor in cls.__mro__[: cls.__mro__.index(base)]:
        for value in vars(ancestor).values():
            found.update(_strings(value.__code__ if isinstance(value, FunctionType) else value))
    return tuple(sorted(name for name in found if name.isidentifier()))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, CodeType):
        for constant in value.co_consts:
            yield from _strings(constant)
    elif isinstance(value, (tuple, list, set, frozenset)):
        for item in value:
            yield from _strings(item)
