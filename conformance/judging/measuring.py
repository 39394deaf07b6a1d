"""How near a case came to its error bound, and so how small a mistake would have been seen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from strategies.cases import Case
from strategies.experts import ExpertsCase
from strategies.models.cases import ModelCase
from strategies.programs import Program
from strategies.target_questions import TargetQuestion
from strategies.vocabulary import VocabularyCase


@dataclass(slots=True)
class Measure:
    """The comparisons of one case: the largest error over its bound, and the smallest deviation that was too large.

    A case that passes may have asked whether an output is a wrong one; ``held`` is of the comparisons inside their
    bounds alone.

    ``smallest`` is relative to the element's magnitude ``|x|·|W|ᵀ + s·|x|·|A|ᵀ·|B|ᵀ``; ``exact`` says that elements
    were compared bit for bit, so that any deviation at all was too large.
    """

    worst: float = 0.0
    held: float = 0.0
    smallest: float = math.inf
    exact: bool = False

    def note(self, error: Tensor, bound: Tensor, magnitude: Tensor | None) -> None:
        """One output: its errors and bounds, and magnitudes in the rounded regime, all of one shape."""
        if magnitude is None:
            self.exact = True
            self._ratio(math.inf if bool((error > 0).any()) else 0.0)
            return
        there = (magnitude > 0) & (bound > 0) & ~error.isnan()
        if bool(there.any()):
            self._ratio(float((error[there] / bound[there]).max()))
            # Whichever way the deviation points, it is seen above the bound and the error that is there already.
            self.smallest = min(self.smallest, float(((bound + error)[there] / magnitude[there]).min()))

    def _ratio(self, ratio: float) -> None:
        self.worst = max(self.worst, ratio)
        self.held = max(self.held, ratio) if ratio <= 1 else self.held


_measure: ContextVar[Measure | None] = ContextVar("measure", default=None)


@contextmanager
def measuring() -> Iterator[Measure]:
    """The comparisons made inside the block."""
    measure = Measure()
    token = _measure.set(measure)
    try:
        yield measure
    finally:
        _measure.reset(token)


def note(error: Tensor, bound: Tensor, magnitude: Tensor | None) -> None:
    """Adds a comparison to the measure around, if there is one."""
    measure = _measure.get()
    if measure is not None:
        measure.note(error, bound, magnitude)


@dataclass(slots=True)
class Cell:
    """The cases of one TP size and rank: how many passed and failed, and the largest error over its bound."""

    passed: int = 0
    failed: int = 0
    worst: float = 0.0


@dataclass(slots=True)
class Evidence:
    """What the cases of a clause add up to; small enough to ride on a test report.

    ``ranks`` says of each TP size how many cases showed something, those that shrink a failure included; questions of
    a rank alone have none.
    """

    exact: int = 0
    rounded: int = 0
    smallest: float = math.inf
    cells: dict[tuple[int, int], Cell] = field(default_factory=dict)
    ranks: Counter[int] = field(default_factory=Counter)

    def record(self, case: object, measure: Measure, *, passed: bool) -> None:
        """One case that passed or failed."""
        if (ranks := _ranks_of(case)) is not None:
            self.ranks[ranks] += 1
        if not isinstance(case, (Case, ModelCase)):
            return
        if passed:
            self.exact += measure.exact
            self.rounded += measure.smallest < math.inf
            self.smallest = min(self.smallest, measure.smallest)
        cell = self.cells.setdefault((case.tp_size, _bucket(case)), Cell())
        cell.passed += passed
        cell.failed += not passed
        cell.worst = max(cell.worst, measure.held if passed else measure.worst)

    def add(self, other: Evidence) -> None:
        """Adds another shard's."""
        self.exact += other.exact
        self.rounded += other.rounded
        self.smallest = min(self.smallest, other.smallest)
        self.ranks += other.ranks
        for place, cell in other.cells.items():
            mine = self.cells.setdefault(place, Cell())
            mine.passed += cell.passed
            mine.failed += cell.failed
            mine.worst = max(mine.worst, cell.worst)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; infinite numbers are None."""
        return {
            "exact": self.exact,
            "rounded": self.rounded,
            "smallest": _finite(self.smallest),
            "cells": [
                [tp_size, rank, cell.passed, cell.failed, _finite(cell.worst)]
                for (tp_size, rank), cell in sorted(self.cells.items())
            ],
            "ranks": [list(one) for one in sorted(self.ranks.items())],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Evidence:
        """The inverse of `to_dict`."""
        cells = {
            (tp_size, rank): Cell(passed, failed, math.inf if worst is None else worst)
            for tp_size, rank, passed, failed, worst in data["cells"]
        }
        smallest = math.inf if data["smallest"] is None else data["smallest"]
        ranks = Counter(dict(data.get("ranks", [])))  # which results of older releases have not
        return cls(data["exact"], data["rounded"], smallest, cells, ranks)


def _ranks_of(case: object) -> int | None:
    """The TP size of a case of any kind."""
    if isinstance(case, (Program, TargetQuestion)):
        return case.model.tp_size
    return case.tp_size if isinstance(case, (Case, ModelCase, VocabularyCase, ExpertsCase)) else None


def _bucket(case: Case | ModelCase) -> int:
    """The largest rank of the case's adapters, rounded up to a power of two; 0 without adapters."""
    adapters = (case.adapter,) if isinstance(case, ModelCase) else case.adapters
    largest = max((adapter.rank for adapter in adapters), default=0)
    return 1 << (largest - 1).bit_length() if largest else 0


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
