"""Simpler neighbours of a mixture of experts with adapters; the largest simplifications first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from strategies.adapters import MAX_RANKS
from strategies.experts import ExpertsAdapterSpec, ExpertsCase

_SEEDS = 5


def simpler_experts(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Every case plainer than ``case`` in one part, with its own values and with others that may hide less."""
    for changed in (*_sizes(case), *_tokens(case), *_adapters(case)):
        if changed != case:
            yield from (replace(changed, seed=seed) for seed in dict.fromkeys((case.seed, *range(_SEEDS))))
    yield from (replace(case, seed=seed) for seed in range(min(case.seed, _SEEDS)))


def _sizes(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Fewer ranks and experts, and smaller ones."""
    for size in (1, 2):
        if size < case.tp_size:
            alone = {"expert_parallel": case.expert_parallel and size > 1}
            alone |= {"fully_sharded": case.fully_sharded and size > 1}
            yield replace(case, tp_size=size, **alone)
            if not case.expert_parallel:
                inner = max(1, case.intermediate_size * size // case.tp_size)
                yield replace(case, tp_size=size, intermediate_size=inner, **alone)
    yield replace(case, expert_parallel=False)
    yield replace(case, fully_sharded=False)
    yield replace(case, intermediate_size=1 if case.expert_parallel else case.tp_size)
    yield replace(case, hidden_size=1)
    shared = case.tp_size if case.expert_parallel else 1
    unused = sorted(set(range(case.experts)) - {expert for chosen in case.routing for expert in chosen})
    for gone in (unused[: len(unused) // shared * shared], unused[:shared], unused[-shared:]):
        if gone and len(gone) < case.experts:
            yield _without(case, gone)


def _without(case: ExpertsCase, gone: list[int]) -> ExpertsCase:
    """The case without some experts that no token is routed to."""
    kept = [expert for expert in range(case.experts) if expert not in gone]
    return replace(
        case,
        experts=len(kept),
        adapters=tuple(replace(one, experts=tuple(one.experts[expert] for expert in kept)) for one in case.adapters),
        routing=tuple(tuple(kept.index(expert) for expert in chosen) for chosen in case.routing),
    )


def _tokens(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Fewer tokens, of the first adapter, with fewer experts each and the first ones."""
    for at in range(len(case.tokens)):
        before, after = slice(at), slice(at + 1, None)
        if len(case.tokens) > 1:
            tokens = (*case.tokens[before], *case.tokens[after])
            yield replace(case, tokens=tokens, routing=(*case.routing[before], *case.routing[after]))
        if case.tokens[at] > 0:
            yield from (replace(case, tokens=(*case.tokens[before], other, *case.tokens[after])) for other in (0, -1))
        first = tuple(range(len(case.routing[at])))
        yield replace(case, routing=(*case.routing[before], first, *case.routing[after]))
    if len(case.routing[0]) > 1:
        yield from (replace(case, routing=tuple(one[at : at + 1] for one in case.routing)) for at in (0, 1))


def _adapters(case: ExpertsCase) -> Iterator[ExpertsCase]:
    """Fewer adapters, in the first slots, plainer, with fewer slots and a smaller greatest rank around them."""
    for index, adapter in enumerate(case.adapters):
        before, after = case.adapters[:index], case.adapters[index + 1 :]
        if len(case.adapters) > 1 and index not in case.tokens:
            moved = tuple(token - (token > index) for token in case.tokens)
            yield replace(case, adapters=(*before, *after), tokens=moved)
        yield from (replace(case, adapters=(*before, plainer, *after)) for plainer in _plainer(adapter))
    first = tuple(replace(one, slot=slot) for slot, one in enumerate(case.adapters))
    yield replace(case, adapters=first, max_loras=len(first))
    yield replace(case, max_loras=max(one.slot for one in case.adapters) + 1)
    needed = max(one.rank for one in case.adapters)
    yield from (replace(case, max_rank=rank) for rank in MAX_RANKS if needed <= rank < case.max_rank)


def _plainer(adapter: ExpertsAdapterSpec) -> Iterator[ExpertsAdapterSpec]:
    yield replace(adapter, fused=False)
    yield from (replace(adapter, rank=rank) for rank in (1, 2) if rank < adapter.rank)
    for at, adapted in enumerate(adapter.experts):
        if adapted and sum(adapter.experts) > 1:
            yield replace(adapter, experts=(*adapter.experts[:at], False, *adapter.experts[at + 1 :]))
    for parts in ((True, False, False), (False, True, False), (False, False, True)):
        if sum(adapter.parts) > 1 and not adapter.fused:
            yield replace(adapter, parts=parts)
