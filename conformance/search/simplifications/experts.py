"""Simpler neighbours of a mixture of experts with adapters; the largest simplifications first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.search.simplifications.parts import by_default, changed, max_ranks, one_plainer, put
from strategies.experts import ExpertsAdapterSpec, ExpertsCase

_SEEDS = 5


def simpler_experts(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Every case plainer than ``case`` in one part, with its own values and with others that may hide less."""
    for one in (*_fewer_adapters(case), *_fewer_tokens(case), *_sizes(case), *_tokens(case), *_adapters(case)):
        if one != case and one.shared_evenly:
            yield from (replace(one, seed=seed) for seed in dict.fromkeys((case.seed, *range(_SEEDS))))
    yield from (replace(case, seed=seed) for seed in range(min(case.seed, _SEEDS)))


def _sizes(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Fewer ranks and experts, and smaller ones."""
    shared = case.tp_size if case.expert_parallel else 1
    for count in (shared, 2 * shared):
        if count < case.experts:
            first = tuple(tuple(range(min(count, len(chosen)))) for chosen in case.routing)
            yield replace(case, experts=count, adapters=_whole(case, count), routing=first)
    for size in (1, 2):
        if size < case.tp_size:
            several = size > 1
            fewer = replace(case, tp_size=size, fully_sharded=case.fully_sharded and several)
            fewer = replace(fewer, expert_parallel=case.expert_parallel and several)
            yield fewer
            if case.expert_parallel:
                yield replace(fewer, adapters=_whole(case, case.experts))
            else:
                yield replace(fewer, intermediate_size=case.intermediate_size * size // case.tp_size)
    yield from by_default(case, "expert_parallel", "fully_sharded")
    unit = 1 if case.expert_parallel else case.tp_size
    for inner in sorted({unit, 2 * unit, case.intermediate_size - unit}):
        if 0 < inner < case.intermediate_size:
            yield replace(case, intermediate_size=inner)
    yield from by_default(case, "hidden_size", "reused")
    unused = sorted(set(range(case.experts)) - {expert for chosen in case.routing for expert in chosen})
    for gone in (unused[: len(unused) // shared * shared], unused[:shared], unused[-shared:]):
        if gone and len(gone) < case.experts:
            yield _without(case, gone)


def _whole(case: ExpertsCase, count: int) -> tuple[ExpertsAdapterSpec, ...]:
    """The adapters, for each of the first ``count`` experts."""
    return tuple(replace(one, experts=(True,) * count) for one in case.adapters)


def _without(case: ExpertsCase, gone: list[int]) -> ExpertsCase:
    """The case without some experts that no token is routed to."""
    kept = [expert for expert in range(case.experts) if expert not in gone]
    return replace(
        case,
        experts=len(kept),
        adapters=tuple(replace(one, experts=tuple(one.experts[expert] for expert in kept)) for one in case.adapters),
        routing=tuple(tuple(kept.index(expert) for expert in chosen) for chosen in case.routing),
    )


def _fewer_tokens(case: ExpertsCase) -> Iterator[ExpertsCase]:
    count = len(case.tokens)
    for length in sorted({count // 2, 2, 1}, reverse=True):
        for at in range(count - length + 1 if 0 < length < count else 0):
            before, after = slice(at), slice(at + length, None)
            tokens = (*case.tokens[before], *case.tokens[after])
            yield replace(case, tokens=tokens, routing=(*case.routing[before], *case.routing[after]))


def _tokens(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Tokens of the first adapter or of none, with fewer experts each and the first ones."""
    for at, (token, chosen) in enumerate(zip(case.tokens, case.routing, strict=True)):
        if token > 0:
            yield from (replace(case, tokens=put(case.tokens, at, other)) for other in (0, -1))
        yield replace(case, routing=put(case.routing, at, tuple(range(len(chosen)))))
    if case.top_k > 1:
        yield from (replace(case, routing=tuple(one[at : at + 1] for one in case.routing)) for at in (0, 1))


def _fewer_adapters(case: ExpertsCase) -> Iterator[ExpertsCase]:
    for index in range(len(case.adapters)):
        if len(case.adapters) > 1 and index not in case.tokens:
            moved = tuple(token - (token > index) for token in case.tokens)
            fewer = replace(case, adapters=put(case.adapters, index), tokens=moved)
            yield from (fewer, _in_the_first_slots(fewer))


def _adapters(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Adapters in the first slots, plainer, with fewer slots and a smaller greatest rank around them."""
    yield from (replace(case, adapters=adapters) for adapters in one_plainer(case.adapters, _plainer))
    first = _in_the_first_slots(case)
    yield first
    if first.adapters != case.adapters:
        yield replace(first, adapters=_whole(first, case.experts))
    yield replace(case, max_loras=max(one.slot for one in case.adapters) + 1)
    yield from changed(case, *max_ranks(case.max_rank, [one.rank for one in case.adapters]))


def _in_the_first_slots(case: ExpertsCase) -> ExpertsCase:
    first = tuple(replace(one, slot=slot) for slot, one in enumerate(case.adapters))
    return replace(case, adapters=first, max_loras=len(first))


def _plainer(adapter: ExpertsAdapterSpec) -> Iterator[ExpertsAdapterSpec]:
    yield from by_default(adapter, "fused")
    yield from (replace(adapter, rank=rank) for rank in (1, 2) if rank < adapter.rank)
    if sum(adapter.experts) > 1:
        without = one_plainer(adapter.experts, lambda adapted: (False,) * adapted)
        yield from (replace(adapter, experts=experts) for experts in without)
    for parts in ((True, False, False), (False, True, False), (False, False, True)):
        if sum(adapter.parts) > 1 and not adapter.fused:
            yield replace(adapter, parts=parts)
