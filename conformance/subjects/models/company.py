"""An adapter beside another one: both in a batch, one in the other's place, and back again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import OUTPUT, ROWS, ServedModel
from conformance.subjects.models.observing import Readings, attempt

_TURNS = (1, 2, None, 2)  # whose the tokens of a batch are


@dataclass(frozen=True, slots=True)
class Company:
    """What an adapter gives alone, and after all that follows; and pairs of readings that have to be the same.

    ``beside`` are a batch of both adapters and of none, or, where there is one slot, the adapter before and after the
    other one had it. ``instead`` are the other one and its directory loaded in the adapter's place. Both are None
    where the other one is refused.
    """

    first: Readings
    again: Readings
    beside: tuple[Readings, Readings] | None = None
    instead: tuple[Readings, Readings] | None = None


def in_company(
    model: ServedModel, group: RankGroup, base: Readings, first: Readings, own: Path, other: Path, *, slots: int
) -> Company:
    """Loads the adapter in ``other`` beside that in ``own``, which gave what was read first; ends with it alone."""
    if attempt(partial(model.add, 2, other), group):
        return Company(first, _again(model, own))
    second = model.read(2)
    if slots > 1:
        beside = in_turn([{1: first, 2: second, None: base}[one] for one in _TURNS]), model.read(*_TURNS)
    else:
        model.add(1, own)
        beside = first, model.read(1)
    model.replace(1, other)
    return Company(first, beside=beside, instead=(second, model.read(1)), again=_again(model, own))


def _again(model: ServedModel, own: Path) -> Readings:
    model.remove(1)
    model.add(1, own)
    return model.read(1)


def in_turn(readings: list[Readings]) -> Readings:
    """What a batch gives whose tokens have these in turn, as far as it goes by tokens."""
    return {
        name: {part: _rows([one[name][part] for one in readings]) for part in (OUTPUT, ROWS) if part in parts}
        for name, parts in readings[0].items()
    }


def _rows(turns: list[Tensor]) -> Tensor:
    whole = turns[0].clone()
    for place, one in enumerate(turns):
        whole[place :: len(turns)] = one[place :: len(turns)]
    return whole
