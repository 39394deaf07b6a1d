"""Known mistakes as data: the tensors with which a right implementation would give what a wrong one gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import permutations, product

import torch
from torch import Tensor

from conformance.judging.anomalies.rank_mistakes import changed
from conformance.values.linear import CaseTensors, part_sizes
from lora_compat.adapters import LayerAdapter, SubAdapter
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


def without_roots(case: Case, tensors: CaseTensors) -> CaseTensors:
    """Rank-stabilised adapters scaled by alpha / r instead of alpha / √r."""
    adapters = tuple(
        LayerAdapter(adapter.parts, adapter.scaling / spec.rank**0.5) if spec.rslora else adapter
        for spec, adapter in zip(case.adapters, tensors.adapters, strict=True)
    )
    return replace(tensors, adapters=adapters)


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


def mixed_up(tensors: CaseTensors) -> Iterator[CaseTensors]:
    """One part of packed adapters with the A of its neighbour, or of the first, or with its B if their sizes agree."""
    count = max((len(adapter.parts) for adapter in tensors.adapters), default=0)
    for own in range(count):
        for other, of_a in product(sorted({0, own - 1, own + 1} & set(range(count)) - {own}), (True, False)):
            adapters = tuple(_with_factor(adapter, own, other, of_a=of_a) for adapter in tensors.adapters)
            if any(one is not before for one, before in zip(adapters, tensors.adapters, strict=True)):
                yield replace(tensors, adapters=adapters)


def _with_factor(adapter: LayerAdapter, own: int, other: int, *, of_a: bool) -> LayerAdapter:
    parts = list(adapter.parts)
    mine, source = (parts[index] if index < len(parts) else None for index in (own, other))
    if mine is None or source is None or not (of_a or len(mine.lora_b) == len(source.lora_b)):
        return adapter
    rank = min(mine.rank, source.rank)  # what one factor has beyond the other's rank meets zeros
    of_rows, of_columns = (source, mine) if of_a else (mine, source)
    parts[own] = SubAdapter(of_rows.lora_a[:rank], of_columns.lora_b[:, :rank])
    return LayerAdapter(tuple(parts), adapter.scaling)


def cut_short(case: Case, tensors: CaseTensors) -> Iterator[CaseTensors]:
    """Sums that lack the inputs, or the ranks, from some place on, or the first of each."""
    width = case.layer.input_size // (case.layer_tp_size if case.layer.family is Family.ROW else 1)
    rank = max((one.rank for one in case.adapters), default=0)
    for kept in _pieces(width):
        columns = kept[torch.arange(case.layer.input_size) % width]
        yield replace(tensors, adapters=changed(tensors.adapters, partial(_with_columns, columns)))
    for kept in _pieces(rank):
        yield replace(tensors, adapters=changed(tensors.adapters, partial(_with_ranks, kept)))


def _with_columns(kept: Tensor, part: SubAdapter) -> SubAdapter:
    return SubAdapter(part.lora_a * kept, part.lora_b)


def _with_ranks(kept: Tensor, part: SubAdapter) -> SubAdapter:
    return SubAdapter(part.lora_a, part.lora_b * kept[: part.rank])


def _pieces(length: int) -> Iterator[Tensor]:
    """Of so many terms all but the last, a block of them, all but the first: what is left once a case is shrunk."""
    if length > 1:
        places = torch.arange(length)
        ends = {length - 1, 2 ** (length - 1).bit_length() // 2}
        yield from (places < end for end in sorted(ends, reverse=True))
        yield places > 0
