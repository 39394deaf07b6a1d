"""A planted bug: what is patched while it is alive, which clauses must notice, and what they should call it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug.

    ``origin`` is its row of the bug history, or why somebody would write it. Each of ``clauses`` notices it within
    the default profile, the first of them most directly; ``anomalies`` are the names that tell a reader what is
    wrong. ``patch()`` is the context in which the bug lives.
    """

    name: str
    story: str
    origin: str
    clauses: tuple[str, ...]
    anomalies: tuple[str, ...]
    patch: Callable[[], AbstractContextManager[object]]


def plant(
    owner: Any, attribute: str, *, origin: str, clauses: str, anomalies: str
) -> Callable[[Callable[[Any], Any]], Mutant]:
    """Makes a mutant of a function that takes what ``owner.attribute`` is and gives back what it becomes.

    Properties, class methods and static methods are handed over, and taken back, as plain functions. The function's
    name is the mutant's, its docstring the story.
    """

    def decorate(mutate: Callable[[Any], Any]) -> Mutant:
        def planted() -> AbstractContextManager[object]:
            original = inspect.getattr_static(owner, attribute)
            if isinstance(original, property):
                return patch.object(owner, attribute, property(mutate(original.fget)))
            if isinstance(original, (classmethod, staticmethod)):
                return patch.object(owner, attribute, type(original)(mutate(original.__func__)))
            return patch.object(owner, attribute, mutate(original))

        return _mutant(mutate, planted, origin, clauses, anomalies)

    return decorate


def plant_together(*, origin: str, clauses: str, anomalies: str) -> Callable[[Callable[[], Any]], Mutant]:
    """Like `plant`, for a bug that needs a context manager of its own."""

    def decorate(planted: Callable[[], Any]) -> Mutant:
        return _mutant(planted, planted, origin, clauses, anomalies)

    return decorate


def _mutant(named: Callable[..., Any], planted: Callable[[], Any], origin: str, clauses: str, names: str) -> Mutant:
    story = inspect.getdoc(named)
    assert story, f"{named.__name__} needs a docstring that tells what is wrong"
    return Mutant(
        named.__name__.replace("_", "-"),
        " ".join(story.split()),
        origin,
        tuple(clauses.split()),
        tuple(names.split()),
        planted,
    )


def planted_in(module: Any) -> tuple[Mutant, ...]:
    """The mutants of a module, in the order they are written down."""
    return tuple(value for value in vars(module).values() if isinstance(value, Mutant))
