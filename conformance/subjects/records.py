"""What came of the calls of a program, as data that any engine can hand back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from conformance.engines.ranks import site_of
from conformance.implementations.model_protocol import InjectedFault
from conformance.subjects.calls import Call


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """What one layer returned under one of its names, flattened."""

    index: int
    name: str
    tensors: tuple[Tensor, ...]


# An error of these classes is a crash, whatever it says.
_CRASHES = (AssertionError, AttributeError, IndexError, TypeError, UnboundLocalError, StopIteration)


@dataclass(frozen=True, slots=True)
class Problem:
    """What was raised, as data that any engine can hand back."""

    kind: str
    message: str
    crash: bool
    injected: bool
    site: str = ""

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """Takes down ``error``."""
        crash = isinstance(error, _CRASHES)
        site = site_of(error)
        injected = isinstance(error, InjectedFault)
        return cls(type(error).__name__, str(error), crash, injected, "" if site is None else str(site))

    def __str__(self) -> str:
        return f"{self.kind}: {self.message.partition(chr(10))[0]}"


@dataclass(frozen=True, slots=True)
class Record:
    """What came of one call on one rank: its result or problem, who was there afterwards, and what a run returned.

    ``tokens`` has, for a run, the adapter that should serve each token of each layer: the mapped one if it is active.
    """

    call: Call
    result: bool | None
    problem: Problem | None
    before: tuple[frozenset[int], frozenset[int]]
    after: tuple[frozenset[int], frozenset[int]]
    outputs: tuple[LayerOutput, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
