"""Adapters that are easily forgotten: equal to another, all zeros, almost all zeros, of parts with their own ranks."""

from __future__ import annotations

from dataclasses import replace

from hypothesis.strategies import DrawFn

from strategies.cases import AdapterSpec, Case, Content, Regime
from strategies.choices import sampled
from strategies.codec import Named


class Peculiarity(Named):
    """What is peculiar about a case's adapters."""

    NONE = "none"
    EQUAL = "equal"  # the last adapter is the first once more
    ZERO = "zero"  # the last of several adapters is all zeros
    LONE = "lone"  # the last adapter has a single element that is not zero
    UNEVEN = "uneven"  # the parts of packed adapters have different ranks, as PEFT's rank_pattern makes them


def with_peculiarities(draw: DrawFn, case: Case) -> Case:
    """``case``, in one of eight with something peculiar about its adapters; shrinks to nothing."""
    if not case.adapters:
        return case
    peculiar = draw(sampled(_CHOICES[len(case.adapters) > 1, len(case.packed) > 1], "peculiarity"))
    last = case.adapters[-1]
    if peculiar is Peculiarity.EQUAL:
        return _with_last(case, replace(case.adapters[0], slot=last.slot, content=Content.EQUAL))
    if peculiar is Peculiarity.ZERO:
        return _with_last(case, replace(last, content=Content.ZERO))
    if peculiar is Peculiarity.LONE and case.regime is Regime.EXACT:  # one element is lost in rounding
        return _with_last(case, replace(last, content=Content.LONE))
    if peculiar is Peculiarity.UNEVEN:
        parts = tuple(uneven(one, case.seed + index) for index, one in enumerate(case.adapters))
        return replace(case, adapters=parts)
    return case


_CHOICES = {
    (several, packed): (
        *[Peculiarity.NONE] * 20,
        *((Peculiarity.EQUAL, Peculiarity.ZERO) if several else ()),
        Peculiarity.LONE,
        *([Peculiarity.UNEVEN] * 3 if packed else ()),
    )
    for several in (False, True)
    for packed in (False, True)
}


def _with_last(case: Case, adapter: AdapterSpec) -> Case:
    return replace(case, adapters=(*case.adapters[:-1], adapter))


def uneven(adapter: AdapterSpec, seed: int) -> AdapterSpec:
    """The adapter with parts of its rank, of half of it, and of one, beginning anywhere."""
    if adapter.fused or adapter.rank == 1:
        return adapter
    every = (adapter.rank, max(1, adapter.rank // 2), 1)
    ranks = [every[(seed + index) % 3] for index in range(len(adapter.present))]
    if adapter.rank not in ranks:
        ranks[0] = adapter.rank
    return replace(adapter, ranks=tuple(ranks))
