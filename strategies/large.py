"""Sizes where code changes its way: one dimension of a case, now and then two, around powers of two and thresholds.

The thresholds are those that implementations have: tiles of 16 to 128 tokens and columns, blocks of 256 inputs, a
shrink that splits differently from 128 tokens on, kernels that stop at rank 64 or at so many slices, vLLM's list of
values for ``max_lora_rank``. Everything else of a case stays small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations, cycle, islice

from hypothesis.strategies import DrawFn, SearchStrategy

from lora_compat.families import Family
from strategies.adapters import MAX_RANKS
from strategies.cases import Case, Heads
from strategies.choices import numbers, sampled
from strategies.codec import Named
from strategies.groupings import MANY_TOKENS, grouped
from strategies.options import ONE_IN, Options
from strategies.peculiar import uneven


class Dimension(Named):
    """What is large."""

    TOKENS = "tokens"  # and runs of tokens of one adapter
    ADAPTERS = "adapters"  # in one batch
    SLOTS = "slots"
    RANK = "rank"
    INPUTS = "inputs"
    ROWS = "rows"  # of one output
    OUTPUTS = "outputs"
    UNEVEN = "uneven ranks"  # of the parts of one adapter


ADAPTERS = (4, 5, 6, 7, 8, 9)
SLOTS = (4, 5, 6, 7, 8, 9, 16, 17, 32, 33)
RANKS = (65, 96, 127, 128, 129, 255, 256, 257, 320, 512)
LARGE_MAX_RANKS = (128, 256, 320, 512)  # what vLLM's LoRAConfig accepts beyond `MAX_RANKS`
INPUTS = (31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
ROWS = (15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
OUTPUTS = (5, 6, 7, 8)
UNEVEN = (17, 33, 64, 65, 128)
PACKED = (Family.MERGED_COLUMN, Family.QKV)
_OF_LAYERS = (Dimension.INPUTS, Dimension.ROWS, Dimension.OUTPUTS)


@cache
def rising(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The larger ones more often: they show what smaller ones show, too."""
    return tuple(size for index, size in enumerate(sizes) for _ in range(1 + 3 * index // len(sizes)))


@cache
def large_dimensions(options: Options, *, layers: bool = True) -> SearchStrategy[tuple[Dimension, ...]]:
    """In one case of ``options.large`` one, seldom two, of those that are open; shrinks to none.

    Args:
        options: what the case is drawn from.
        layers: whether the layer's sizes are free; an existing class has its own.
    """
    open_to = {
        Dimension.ADAPTERS: options.adapters[1] > 1,
        Dimension.RANK: bool(options.ranks) or options.max_ranks == MAX_RANKS,
        Dimension.OUTPUTS: Family.MERGED_COLUMN in options.families,
        # Where less is large, `with_peculiarities` has enough of it.
        Dimension.UNEVEN: options.large < ONE_IN and not set(options.families).isdisjoint(PACKED),
    }
    free = [one for one in Dimension if open_to.get(one, True) and (layers or one not in _OF_LAYERS)]
    pairs = list(combinations(free, 2))
    single = max(1, 6 * len(pairs) // len(free))
    chosen = [(one,) for one in free for _ in range(single)] + pairs
    return sampled((*[()] * ((options.large - 1) * len(chosen)), *chosen), "large dimensions")


def roomy(options: Options, dimensions: tuple[Dimension, ...]) -> Options:
    """``options``, narrowed to the layers that have these dimensions."""
    if Dimension.OUTPUTS in dimensions:
        options = replace(options, families=(Family.MERGED_COLUMN,))
    if Dimension.UNEVEN in dimensions:
        families = tuple(family for family in options.families if family in PACKED)
        options = replace(options, families=families, min_outputs=max(2, options.min_outputs))
    return options


def enlarged(draw: DrawFn, case: Case, dimensions: tuple[Dimension, ...], options: Options) -> Case:
    """``case`` with these dimensions large."""
    for dimension in dimensions:
        case = _ENLARGERS[dimension](draw, case, options)
    return case


def _more_tokens(draw: DrawFn, case: Case, options: Options) -> Case:
    count = draw(sampled(rising(MANY_TOKENS), "many tokens"))
    return replace(case, tokens=_grouped(draw, case, count, options))


def _grouped(draw: DrawFn, case: Case, count: int, options: Options) -> tuple[int, ...]:
    choices = tuple(range(len(case.adapters))) + ((-1,) if options.without_adapter or not case.adapters else ())
    return draw(grouped(count, choices))


def _more_adapters(draw: DrawFn, case: Case, options: Options) -> Case:
    """The drawn adapters again and again, with values of their own, in slots of any order; each serves a token."""
    count = draw(sampled(rising(ADAPTERS), "many adapters"))
    turn, step = draw(numbers(count, "turn")), draw(sampled((1, count - 1), "step"))
    adapters = tuple(
        replace(one, slot=(turn + step * index) % count)
        for index, one in enumerate(islice(cycle(case.adapters), count))
    )
    more = replace(case, adapters=adapters, max_loras=count)
    return replace(more, tokens=(*range(count), *_grouped(draw, more, len(case.tokens), options)))


def _more_slots(draw: DrawFn, case: Case, options: Options) -> Case:
    """Many slots, with the adapters at the end, at the start, and in the middle."""
    most = len(case.adapters)
    total = draw(sampled(rising(SLOTS), "many slots")) + most
    places = (total - 1, 0, total // 2, *(slot for slot in range(1, total - 1) if slot != total // 2))
    turn = draw(sampled((0, 0, 0, 1, 2), "first slot")) if most <= 3 else 0
    chosen = places[turn:] + places[:turn] if most <= 3 else places
    adapters = tuple(replace(one, slot=slot) for one, slot in zip(case.adapters, chosen, strict=False))
    return replace(case, adapters=adapters, max_loras=total)


def _larger_rank(draw: DrawFn, case: Case, options: Options) -> Case:
    """Some adapters of large rank, in slots of a rank that holds it."""
    rank = draw(sampled((options.ranks and (64, 128, 256)) or rising(RANKS), "large rank"))
    others = draw(numbers(3, "who is of large rank"))
    adapters = tuple(one.of_rank(rank) if index % 3 in (0, others) else one for index, one in enumerate(case.adapters))
    return replace(case, adapters=adapters, max_rank=next(most for most in LARGE_MAX_RANKS if rank <= most))


def _wider(draw: DrawFn, case: Case, options: Options) -> Case:
    """Many inputs; on more than two ranks the whole layer has so many, not each rank."""
    width = draw(sampled(rising(INPUTS), "many inputs"))
    parts = case.layer_tp_size if case.layer.family is Family.ROW else 1
    each = width if parts <= 2 else -(-width // parts)
    return replace(case, layer=replace(case.layer, input_size=each * parts))


def _taller(draw: DrawFn, case: Case, options: Options) -> Case:
    """One output of many rows, as for inputs; of a QKV layer large heads."""
    layer, rows = case.layer, draw(sampled(rising(ROWS), "many rows"))
    if layer.heads is not None:
        heads = Heads(-(-rows // layer.heads.query), layer.heads.query, layer.heads.key_value)
        return replace(case, layer=replace(layer, heads=heads, output_sizes=heads.output_sizes))
    parts = case.layer_tp_size if layer.family.shards_output else 1
    each = rows if parts <= 2 else -(-rows // parts)
    at = draw(sampled((0, len(layer.output_sizes) - 1), "which output")) if len(layer.output_sizes) > 1 else 0
    sizes = (*layer.output_sizes[:at], each * parts, *layer.output_sizes[at + 1 :])
    return replace(case, layer=replace(layer, output_sizes=sizes))


def _more_outputs(draw: DrawFn, case: Case, options: Options) -> Case:
    """A merged layer of more outputs than four, and adapters that have a part for each, or one for all."""
    count = draw(sampled(rising(OUTPUTS), "many outputs"))
    sizes = tuple(islice(cycle(case.layer.output_sizes), count))
    absent = draw(numbers(count + 1, "absent"))
    present = tuple(index + 1 != absent for index in range(count))
    fits = len(case.packed) == len(case.layer.output_sizes)
    packed = (1,) * count if fits else (count,) if case.packed else ()
    adapters = tuple(
        replace(one, present=present)
        if fits and not one.fused
        else replace(one, present=(True,), fused=len(packed) != 1)
        for one in case.adapters
    )
    return replace(case, layer=replace(case.layer, output_sizes=sizes), packed=packed, adapters=adapters)


def _uneven_ranks(draw: DrawFn, case: Case, options: Options) -> Case:
    """Adapters with a part for each output, whose ranks lie far apart."""
    rank, count = draw(sampled(rising(UNEVEN), "uneven ranks")), len(case.layer.output_sizes)
    whole = (replace(one.of_rank(rank), fused=False, present=(True,) * count) for one in case.adapters)
    adapters = tuple(uneven(one, case.seed + index) for index, one in enumerate(whole))
    max_rank = next(most for most in (*MAX_RANKS, *LARGE_MAX_RANKS) if max(rank, case.max_rank) <= most)
    return replace(case, packed=(1,) * count, adapters=adapters, max_rank=max_rank)


_ENLARGERS: dict[Dimension, Callable[[DrawFn, Case, Options], Case]] = {
    Dimension.TOKENS: _more_tokens,
    Dimension.ADAPTERS: _more_adapters,
    Dimension.SLOTS: _more_slots,
    Dimension.RANK: _larger_rank,
    Dimension.INPUTS: _wider,
    Dimension.ROWS: _taller,
    Dimension.OUTPUTS: _more_outputs,
    Dimension.UNEVEN: _uneven_ranks,
}
