"""Packed lists, adapters, and the tokens they serve."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.cases import AdapterSpec, LayerSpec

MAX_RANKS = (1, 8, 16, 32, 64)  # what vLLM's LoRAConfig accepts, as far as a test needs
_POWERS = (1.0, 2.0, 0.5, 4.0)


def packed_lists(layer: LayerSpec) -> SearchStrategy[tuple[int, ...]]:
    """For each name of a packed-modules list, how many outputs it covers; its length is free of their number."""
    outputs = len(layer.output_sizes)
    if layer.family is Family.QKV:
        return st.sampled_from([(1, 1, 1), (3,), ()])
    if layer.family is not Family.MERGED_COLUMN:
        return st.just(())
    names = [(1,) * outputs, (), (outputs,)]
    if outputs > 2:
        names += [(outputs - 1, 1), (1, outputs - 1)]
    return st.sampled_from(list(dict.fromkeys(names)))


def adapters(
    *, slot: int, packed: tuple[int, ...], outputs: int, max_rank: int, min_present: int = 1
) -> SearchStrategy[AdapterSpec]:
    """One adapter for ``slot``; shrinks to rank 1, scaling 1, with every packed name present.

    Args:
        slot: where it is loaded.
        packed: the layer's packed list, see `packed_lists`.
        outputs: how many outputs the layer has.
        max_rank: the largest rank.
        min_present: at least so many of the packed names are present.
    """
    return _adapters(slot, packed, outputs, max_rank, min_present)


@composite
def _adapters(
    draw: DrawFn, slot: int, packed: tuple[int, ...], outputs: int, max_rank: int, min_present: int
) -> AdapterSpec:
    rank = draw(st.integers(1, max_rank))
    # Powers of two keep the exact regime exact; √r is one where r is a power of four.
    rslora = rank in (1, 4, 16, 64) and draw(st.booleans())
    alpha = draw(st.sampled_from(_POWERS)) * (round(rank**0.5) if rslora else rank)
    fused = len(packed) != 1 and outputs > 1 and (not packed or draw(st.booleans()))
    present = (True,)
    if len(packed) > 1 and not fused:
        present = (True,) * len(packed)
        if len(packed) == outputs:  # a name that covers several outputs cannot be placed by its neighbours' gap
            absent = draw(st.sets(st.integers(0, outputs - 1), max_size=outputs - min_present))
            present = tuple(index not in absent for index in range(outputs))
    return AdapterSpec(slot=slot, rank=rank, alpha=alpha, rslora=rslora, present=present, fused=fused)


@composite
def adapter_sets(
    draw: DrawFn, *, packed: tuple[int, ...], outputs: int, max_rank: int, max_loras: int, min_size: int, max_size: int
) -> tuple[AdapterSpec, ...]:
    """Several adapters in slots of their own; shrinks to few of them, in the first slots."""
    count = draw(st.integers(min_size, min(max_size, max_loras)))
    slots = draw(st.lists(st.integers(0, max_loras - 1), min_size=count, max_size=count, unique=True))
    return tuple(
        draw(adapters(slot=slot, packed=packed, outputs=outputs, max_rank=max_rank)) for slot in slots
    )


def token_maps(
    *, adapters: int, min_size: int = 1, max_size: int = 6, without: bool = True
) -> SearchStrategy[tuple[int, ...]]:
    """For each token the index of its adapter, -1 for none; shrinks to one token with the first adapter."""
    choices = [*range(adapters), -1] if without else list(range(adapters))
    return st.lists(st.sampled_from(choices), min_size=min_size, max_size=max_size).map(tuple)
