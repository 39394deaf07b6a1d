"""Packed lists, adapters, and the tokens they serve."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.cases import AdapterSpec, LayerSpec
from strategies.choices import sampled, sequences

MAX_RANKS = (1, 8, 16, 32, 64)  # what vLLM's LoRAConfig accepts, as far as a test needs
SCALINGS = (1.0, 2.0, 0.5, 4.0)


def packed_lists(layer: LayerSpec) -> SearchStrategy[tuple[int, ...]]:
    """For each name of a packed-modules list, how many outputs it covers; its length is free of their number."""
    return sampled(_packed_lists(layer.family, len(layer.output_sizes)))


@cache
def _packed_lists(family: Family, outputs: int) -> tuple[tuple[int, ...], ...]:
    if family is Family.QKV:
        return (1,) * outputs, (outputs,), ()
    if family is not Family.MERGED_COLUMN:
        return ((),)
    names = [(1,) * outputs, (), (outputs,)]
    if outputs > 2:
        names += [(outputs - 1, 1), (1, outputs - 1)]
    return tuple(dict.fromkeys(names))


def adapters(
    *,
    slot: int,
    packed: tuple[int, ...],
    outputs: int,
    max_rank: int,
    min_present: int = 1,
    scalings: tuple[float, ...] = SCALINGS,
    ranks: tuple[int, ...] = (),
) -> SearchStrategy[AdapterSpec]:
    """One adapter for ``slot``; shrinks to rank 1, scaling 1, with every packed name present.

    Args:
        slot: where it is loaded.
        packed: the layer's packed list, see `packed_lists`.
        outputs: how many outputs the layer has.
        max_rank: the largest rank.
        min_present: at least so many of the packed names are present.
        scalings: values of ``alpha / r`` (or of ``alpha / √r``), powers of two.
        ranks: the ranks drawn from, if not all up to ``max_rank``.
    """
    return _adapters(slot, packed, outputs, max_rank, min_present, scalings, ranks)


@cache
@composite
def _adapters(
    draw: DrawFn,
    slot: int,
    packed: tuple[int, ...],
    outputs: int,
    max_rank: int,
    min_present: int,
    scalings: tuple[float, ...],
    ranks: tuple[int, ...],
) -> AdapterSpec:
    rank = draw(sampled(ranks)) if ranks else draw(_integers(1, max_rank))
    (fused, present), scaling, rslora = draw(_forms(packed, outputs, min_present, scalings))
    # Powers of two keep the exact regime exact; √r is one where r is a power of four.
    rslora = rslora and rank in (1, 4, 16, 64)
    alpha = scaling * (round(rank**0.5) if rslora else rank)
    return AdapterSpec(slot=slot, rank=rank, alpha=alpha, rslora=rslora, present=present, fused=fused)


Form = tuple[bool, tuple[bool, ...]]


@cache
def _forms(
    packed: tuple[int, ...], outputs: int, min_present: int, scalings: tuple[float, ...]
) -> SearchStrategy[tuple[Form, float, bool]]:
    """Fused or not, which of the packed names are present, the scaling, and whether it is rank-stabilised.

    One draw for the four: a draw costs more than a small adapter's mathematics.
    """
    every: list[Form] = []
    if len(packed) == outputs > 1:
        patterns = product((True, False), repeat=outputs)
        every += [(False, pattern) for pattern in patterns if sum(pattern) >= min_present]
    elif len(packed) > 1:  # a name that covers several outputs cannot be placed by its neighbours' gap
        every.append((False, (True,) * len(packed)))
    if len(packed) != 1 and outputs > 1:
        # Half of the adapters of a packed layer, as far as the patterns allow it.
        every[1:1] = [(True, (True,))] * max(1, len(every) // 2)
    elif not every:
        every.append((False, (True,)))
    return sampled(tuple(product(every, scalings, (False, True))))


@cache
def _integers(least: int, most: int) -> SearchStrategy[int]:
    return st.integers(least, most)


@cache
def slot_sets(*, sizes: tuple[int, int], max_loras: int = 3) -> SearchStrategy[tuple[int, tuple[int, ...]]]:
    """``max_loras`` and distinct slots for some adapters, in any order; shrinks to few adapters in the first slots.

    Args:
        sizes: least and most adapters.
        max_loras: slots at most, raised to the most adapters.
    """
    least, most = sizes
    return sampled(
        tuple(
            (total, slots)
            for count in range(least, most + 1)
            for total in range(max(1, count), max(most, max_loras) + 1)
            for slots in permutations(range(total), count)
        )
    )


@composite
def adapter_sets(
    draw: DrawFn,
    *,
    packed: tuple[int, ...],
    outputs: int,
    max_rank: int,
    slots: tuple[int, ...],
    scalings: tuple[float, ...] = SCALINGS,
    ranks: tuple[int, ...] = (),
) -> tuple[AdapterSpec, ...]:
    """One adapter for each of ``slots``."""
    return tuple(draw(_adapters(slot, packed, outputs, max_rank, 1, scalings, ranks)) for slot in slots)


def token_maps(
    *, adapters: int, min_size: int = 1, max_size: int = 6, without: bool = True
) -> SearchStrategy[tuple[int, ...]]:
    """For each token the index of its adapter, -1 for none; shrinks to one token with the first adapter."""
    choices = (*range(adapters), -1) if without or not adapters else tuple(range(adapters))
    return sequences(choices, min_size=min_size, max_size=max_size)
