"""Known mistakes as data: the tensors with which a right implementation would give what a wrong one gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations

from conformance.values.linear import CaseTensors, part_sizes
from lora_compat.adapters import LayerAdapter
from lora_compat.families import Family
from strategies.cases import Case

_MOST_ORDERS = 24


def scaled(tensors: CaseTensors, change: Callable[[float], float]) -> CaseTensors:
    """The adapters with other scalings."""
    adapters = tuple(LayerAdapter(adapter.parts, change(adapter.scaling)) for adapter in tensors.adapters)
    return replace(tensors, adapters=adapters)


def scaling_mistakes(case: Case, tensors: CaseTensors) -> Iterator[CaseTensors]:
    """Other scalings that somebody may compute: with the other sign, the slot's rank, or another power of the rank."""
    ranks = [spec.rank for spec in case.adapters]
    changes: list[Callable[[float, int], float]] = [
        lambda s, r: -s,
        lambda s, r: s * r / case.max_rank,
        lambda s, r: s / r**0.5,
        lambda s, r: s * r**0.5,
        lambda s, r: s / r,
        lambda s, r: s * r,
    ]
    for change in changes:
        adapters = zip(tensors.adapters, ranks, strict=True)
        changed = tuple(LayerAdapter(adapter.parts, change(adapter.scaling, rank)) for adapter, rank in adapters)
        if any(one.scaling != other.scaling for one, other in zip(changed, tensors.adapters, strict=True)):
            yield replace(tensors, adapters=changed)


def without_adapters(tensors: CaseTensors) -> CaseTensors:
    """Adapters that add nothing."""
    return scaled(tensors, lambda scaling: 0.0)


def bias_mistakes(case: Case) -> Iterator[tuple[str, float]]:
    """Mistakes that amount to another bias, by what they multiply it with."""
    if not case.layer.bias:
        return
    yield "bias-dropped", 0.0
    if case.layer.family is Family.ROW and case.layer_tp_size > 1:
        yield "bias-per-rank", float(case.layer_tp_size)
    yield "bias-doubled", 2.0


def reordered(case: Case, tensors: CaseTensors) -> Iterator[CaseTensors]:
    """Every other order of the sub-adapters that their sizes allow, in all adapters alike."""
    count = max((len(adapter.parts) for adapter in tensors.adapters), default=0)
    for number, order in enumerate(permutations(range(count))):
        if number > _MOST_ORDERS:
            return
        changed = []
        for spec, adapter in zip(case.adapters, tensors.adapters, strict=True):
            sizes = part_sizes(case, spec)
            if len(sizes) != count:
                changed.append(adapter)
                continue
            moved = tuple(adapter.parts[index] for index in order)
            if any(part is not None and len(part.lora_b) != size for part, size in zip(moved, sizes, strict=True)):
                break
            changed.append(LayerAdapter(moved, adapter.scaling))
        else:
            if order != tuple(range(count)):
                yield replace(tensors, adapters=tuple(changed))
