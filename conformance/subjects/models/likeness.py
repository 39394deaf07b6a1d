"""Whether a model computes the same as before: readings that are compared, and no more of them than tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import HELD, OUTPUT, ServedModel
from conformance.subjects.models.observing import Readings


@dataclass(frozen=True, slots=True)
class State:
    """What a model computes, and what it holds, as far as it tells."""

    readings: Readings
    held: Sequence[Tensor] | None

    @classmethod
    def of(cls, model: ServedModel, readings: Readings) -> State:
        """The state that a model is in now."""
        held = model.held()
        return cls(readings, held if held is None else [tensor.detach().clone() for tensor in held])


def unlike(
    model: ServedModel, keys: Sequence[str], group: RankGroup, before: State, held: Sequence[Tensor] | None
) -> Readings | None:
    """Readings with the adapter, where they differ on some rank from those before it; None if none do.

    Where it most likely shows is read first, and the rest if it does not, but some rank holds what it did not.
    """
    near = model.read(1, only=around(before.readings, keys))
    if on_any(group, differ(before.readings, near)):
        return near
    if not on_any(group, not _same(before.held, held)):
        return None
    seen = model.read(1)
    return seen if on_any(group, differ(before.readings, seen)) else None


def has_all(whole: State, before: State, held: Sequence[Tensor] | None) -> bool:
    """Whether everything that came to be ``held`` after ``before`` was so in ``whole``; not if that is not known."""
    if whole.held is None or before.held is None or held is None:
        return False
    if not len(whole.held) == len(before.held) == len(held):
        return False
    return all(map(_is_there, held, before.held, whole.held))


def _is_there(now: Tensor, before: Tensor, whole: Tensor) -> bool:
    if torch.equal(now, before):
        return True
    return now.shape == before.shape == whole.shape and bool(((now == before) | (now == whole)).all())


def on_any(group: RankGroup, found: bool) -> bool:
    """Whether it was found on some rank, as ranks go on together, or none does."""
    return bool(group.all_reduce(torch.tensor(float(found))))


def _same(one: Sequence[Tensor] | None, other: Sequence[Tensor] | None) -> bool:
    """Whether both are known, and are equal."""
    return one is not None and other is not None and len(one) == len(other) and all(map(alike, one, other))


def around(readings: Readings, keys: Sequence[str]) -> set[str]:
    """The modules near that of ``keys`` of a file, by their names, and those that are held by several names."""
    parent, name = keys[0].split(".")[-5:-3], keys[0].split(".")[-3]
    return {
        module
        for module, parts in readings.items()
        if f".{'.'.join(parent)}." in f".{module}."
        or module.endswith(name)
        or any(part.startswith(HELD) for part in parts)
    }


def differ(one: Readings, other: Readings) -> bool:
    """Whether any part of any module that was read both times differs.

    What is no number in both, as memory that nobody wrote, does not.
    """
    return any(
        part in other[name] and not alike(tensor, other[name][part])
        for name, parts in one.items()
        if name in other
        for part, tensor in parts.items()
    )


def passed_over(readings: Readings) -> bool:
    """Whether a module that is held by several names computes something else by one of them."""
    return any(
        part.startswith(HELD) and OUTPUT in parts and not alike(parts[OUTPUT], tensor)
        for parts in readings.values()
        for part, tensor in parts.items()
    )


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and numbers, and none in the same places."""
    if torch.equal(one, other):
        return True
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
