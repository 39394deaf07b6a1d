"""Packed lists, adapters, and the tokens they serve."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.cases import AdapterSpec, LayerSpec
from strategies.choices import sampled

MAX_RANKS = (1, 8, 16, 32, 64)  # what vLLM's LoRAConfig accepts, as far as a test needs
SCALINGS = (1.0, 2.0, 0.5, 4.0)


@cache
def packed_lists(layer: LayerSpec) -> SearchStrategy[tuple[int, ...]]:
    """For each name of a packed-modules list, how many outputs it covers; its length is free of their number."""
    outputs = len(layer.output_sizes)
    if layer.family is Family.QKV:
        return sampled(((1, 1, 1), (3,), ()))
    if layer.family is not Family.MERGED_COLUMN:
        return st.just(())
    names = [(1,) * outputs, (), (outputs,)]
    if outputs > 2:
        names += [(outputs - 1, 1), (1, outputs - 1)]
    return sampled(tuple(dict.fromkeys(names)))


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
    # Powers of two keep the exact regime exact; √r is one where r is a power of four.
    rslora = rank in (1, 4, 16, 64) and draw(_booleans)
    alpha = draw(sampled(scalings)) * (round(rank**0.5) if rslora else rank)
    fused = len(packed) != 1 and outputs > 1 and (not packed or draw(_booleans))
    present: tuple[bool, ...] = (True,)
    if len(packed) > 1 and not fused:
        present = (True,) * len(packed)
        if len(packed) == outputs:  # a name that covers several outputs cannot be placed by its neighbours' gap
            present = draw(_patterns(outputs, min_present))
    return AdapterSpec(slot=slot, rank=rank, alpha=alpha, rslora=rslora, present=present, fused=fused)


@cache
def _patterns(outputs: int, min_present: int) -> SearchStrategy[tuple[bool, ...]]:
    """Which of the packed names are present; shrinks to all of them."""
    every = product((True, False), repeat=outputs)
    return sampled(tuple(pattern for pattern in every if sum(pattern) >= min_present))


@cache
def _integers(least: int, most: int) -> SearchStrategy[int]:
    return st.integers(least, most)


_booleans = st.booleans()


@cache
def slot_sets(*, max_loras: int, count: int) -> SearchStrategy[tuple[int, ...]]:
    """Distinct slots for ``count`` adapters, in any order; shrinks to the first ones."""
    return sampled(tuple(permutations(range(max_loras), count)))


@composite
def adapter_sets(
    draw: DrawFn,
    *,
    packed: tuple[int, ...],
    outputs: int,
    max_rank: int,
    max_loras: int,
    sizes: tuple[int, int],
    scalings: tuple[float, ...] = SCALINGS,
    ranks: tuple[int, ...] = (),
) -> tuple[AdapterSpec, ...]:
    """Several adapters in slots of their own; shrinks to few of them, in the first slots."""
    least, most = sizes
    count = draw(_integers(least, min(most, max_loras)))
    return tuple(
        draw(_adapters(slot, packed, outputs, max_rank, 1, scalings, ranks))
        for slot in draw(slot_sets(max_loras=max_loras, count=count))
    )


@cache
def token_maps(
    *, adapters: int, min_size: int = 1, max_size: int = 6, without: bool = True
) -> SearchStrategy[tuple[int, ...]]:
    """For each token the index of its adapter, -1 for none; shrinks to one token with the first adapter."""
    choices = (*range(adapters), -1) if without else tuple(range(adapters))
    return st.lists(sampled(choices), min_size=min_size, max_size=max_size).map(tuple)
