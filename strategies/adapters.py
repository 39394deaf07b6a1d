"""Packed lists, adapters, and the tokens they serve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.cases import AdapterSpec, LayerSpec
from strategies.choices import sampled, sequences

MAX_RANKS = (1, 8, 16, 32, 64)  # what vLLM's LoRAConfig accepts, as far as a test needs
# Powers of two keep the exact regime exact; 4 before 2, because 2 · 2 = 2 + 2 would blur what went wrong.
SCALINGS = (1.0, 4.0, 0.5, 2.0)
ROUNDED_SCALINGS = (1.0, 4.0, 0.3, 1.7, 0.5)


def packed_lists(layer: LayerSpec) -> SearchStrategy[tuple[int, ...]]:
    """For each name of a packed-modules list, how many outputs it covers; its length is free of their number."""
    return sampled(_packed_lists(layer.family, len(layer.output_sizes)))


@cache
def _packed_lists(family: Family, outputs: int) -> tuple[tuple[int, ...], ...]:
    if family is Family.QKV:
        return (1,) * outputs, (1,) * outputs, (outputs,), ()
    if family is not Family.MERGED_COLUMN and outputs == 1:
        return ((),)
    names = [(1,) * outputs, (), (outputs,)]
    if outputs > 2:
        names += [(outputs - 1, 1), (1, outputs - 1)]
    # The usual list more often: only it has absent members.
    return (1,) * outputs, *dict.fromkeys(names)


def adapters(
    *,
    slot: int,
    packed: tuple[int, ...],
    outputs: int,
    max_rank: int,
    min_present: int = 1,
    scalings: tuple[float, ...] = SCALINGS,
    ranks: tuple[int, ...] = (),
    exact: bool = True,
) -> SearchStrategy[AdapterSpec]:
    """One adapter for ``slot``; shrinks to rank 1, scaling 1, with every packed name present.

    Args:
        slot: where it is loaded.
        packed: the layer's packed list, see `packed_lists`.
        outputs: how many outputs the layer has.
        max_rank: the largest rank.
        min_present: at least so many of the packed names are present.
        scalings: values of ``alpha / r`` (or of ``alpha / √r``).
        ranks: the ranks drawn from, if not all up to ``max_rank``.
        exact: rank-stabilised only where √r is a power of two.
    """
    return _single(slot, Terms(packed, outputs, max_rank, min_present, scalings, ranks, exact))


@dataclass(frozen=True, slots=True)
class Terms:
    """What all adapters of a case have in common; see `adapters`."""

    packed: tuple[int, ...]
    outputs: int
    max_rank: int
    min_present: int
    scalings: tuple[float, ...]
    ranks: tuple[int, ...]
    exact: bool


@composite
def _single(draw: DrawFn, slot: int, terms: Terms) -> AdapterSpec:
    return _adapter(draw, 0, slot, terms)


def _adapter(draw: DrawFn, index: int, slot: int, terms: Terms) -> AdapterSpec:
    rank = draw(sampled(terms.ranks or tuple(range(1, terms.max_rank + 1)), f"rank {index}"))
    (fused, present), scaling, rslora = draw(_forms(index, terms))
    rslora = rslora and (not terms.exact or rank in (1, 4, 16, 64))
    alpha = scaling * (rank**0.5 if rslora else rank)
    return AdapterSpec(slot=slot, rank=rank, alpha=alpha, rslora=rslora, present=present, fused=fused)


Form = tuple[bool, tuple[bool, ...]]


@cache
def _forms(index: int, terms: Terms) -> SearchStrategy[tuple[Form, float, bool]]:
    """Fused or not, which of the packed names are present, the scaling, and whether it is rank-stabilised.

    One draw for the four: a draw costs more than a small adapter's mathematics.
    """
    packed, outputs = terms.packed, terms.outputs
    every: list[Form] = []
    if len(packed) == outputs > 1:
        patterns = product((True, False), repeat=outputs)
        every += [(False, pattern) for pattern in patterns if sum(pattern) >= terms.min_present]
    elif len(packed) > 1:  # a name that covers several outputs cannot be placed by its neighbours' gap
        every.append((False, (True,) * len(packed)))
    if len(packed) != 1 and outputs > 1:
        # Half of the adapters of a packed layer, as far as the patterns allow it.
        every[1:1] = [(True, (True,))] * max(1, len(every) // 2)
    elif not every:
        every.append((False, (True,)))
    return sampled(tuple(product(every, terms.scalings, (False, True))), f"form {index}")


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


def draw_adapters(draw: DrawFn, slots: tuple[int, ...], terms: Terms) -> tuple[AdapterSpec, ...]:
    """One adapter for each of ``slots``; drawn here and now, as a strategy for each case's terms would cost more."""
    return tuple(_adapter(draw, index, slot, terms) for index, slot in enumerate(slots))


def token_maps(
    *, adapters: int, min_size: int = 1, max_size: int = 6, without: bool = True
) -> SearchStrategy[tuple[int, ...]]:
    """For each token the index of its adapter, -1 for none; shrinks to one token with the first adapter."""
    choices = (*range(adapters), -1) if without or not adapters else tuple(range(adapters))
    return sequences(choices, min_size=min_size, max_size=max_size, what="tokens")
