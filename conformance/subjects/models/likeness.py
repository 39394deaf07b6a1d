"""Whether a model computes the same as before: readings that are compared, and no more of them than tells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import HELD, OUTPUT, ServedModel
from conformance.subjects.models.observing import Readings


def unlike(model: ServedModel, keys: Sequence[str], group: RankGroup, before: Readings) -> Readings | None:
    """Readings with the adapter, where they differ on some rank from those before it; None if none do.

    Where it most likely shows is read first, and the rest if it does not.
    """
    for only in (around(before, keys), None):
        seen = model.read(1, only=only)
        if group.all_reduce(torch.tensor(float(differ(before, seen)))):  # ranks read together, or none does
            return seen
    return None


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
