"""Less of what a case has much of: a dimension is taken down by halves, then by quarters, and last by one.

What is left of these goes first: every further attempt costs less, and a case that needs 129 tokens is found by eight
attempts for each of its dimensions, not by one for each token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.search.simplifications.fewer_ranks import with_heads
from conformance.search.simplifications.parts import by_default, less, one_plainer
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case
from strategies.large import LARGE_MAX_RANKS

_FEW = 6  # tokens and adapters, as many as there are in a case of which nothing is large
_SHORT = 17  # inputs, rows and ranks


def smaller(case: Case) -> Iterator[Case]:
    """The case with less of one dimension that is large."""
    yield from _tokens(case)
    yield from _adapters(case)
    yield from _slots(case)
    yield from _ranks(case)
    if case.subclass.target is None:
        yield from _inputs(case)
        yield from _rows(case)


def _tokens(case: Case) -> Iterator[Case]:
    """The first tokens, the last, and one of each run."""
    count = len(case.tokens)
    for length in less(count, _FEW):
        yield replace(case, tokens=case.tokens[:length])
        yield replace(case, tokens=case.tokens[count - length :])
    if count > _FEW:
        pairs = zip(case.tokens, (None, *case.tokens), strict=False)
        yield replace(case, tokens=tuple(token for token, before in pairs if token != before))
        yield from (replace(case, tokens=(one,) * count) for one in sorted({*case.tokens}) if len({*case.tokens}) > 1)


def _adapters(case: Case) -> Iterator[Case]:
    """The first adapters, which serve the others' tokens, too."""
    for count in less(len(case.adapters), 3):
        left = case.adapters[:count]
        tokens = tuple(token % count if token >= 0 else token for token in case.tokens)
        yield replace(case, adapters=left, tokens=tokens)


def _slots(case: Case) -> Iterator[Case]:
    """Fewer slots, the adapters of the last ones in the last ones still."""
    for total in less(case.max_loras, 3):
        gone = case.max_loras - total
        moved = tuple(
            replace(one, slot=one.slot - gone if one.slot >= gone and one.slot >= total else one.slot)
            for one in case.adapters
        )
        yield replace(case, adapters=moved, max_loras=total)


def _ranks(case: Case) -> Iterator[Case]:
    """Adapters of smaller rank, each by itself, and slots for smaller ones."""
    shorter = one_plainer(case.adapters, lambda one: map(one.of_rank, less(one.rank, _SHORT)))
    yield from (replace(case, adapters=adapters) for adapters in shorter)
    needed = max((one.rank for one in case.adapters), default=1)
    yield from (replace(case, max_rank=rank) for rank in (64, *LARGE_MAX_RANKS) if needed <= rank < case.max_rank)


def _inputs(case: Case) -> Iterator[Case]:
    layer = case.layer
    unit = case.layer_tp_size if layer.family is Family.ROW else 1
    for width in less(layer.input_size // unit, _SHORT):
        yield replace(case, layer=replace(layer, input_size=width * unit))


def _rows(case: Case) -> Iterator[Case]:
    """Fewer rows of one output; smaller heads."""
    layer = case.layer
    if layer.heads is not None:
        yield from (with_heads(case, replace(layer.heads, size=size)) for size in less(layer.heads.size, 3))
        return
    unit = case.layer_tp_size if layer.family.shards_output else 1
    fewer = one_plainer(layer.output_sizes, lambda rows: [each * unit for each in less(rows // unit, _SHORT)])
    yield from (replace(case, layer=replace(layer, output_sizes=sizes)) for sizes in fewer)


def drawn_anew(case: Case) -> Iterator[Case]:
    """Adapters with nothing peculiar about them: values as drawn, parts of one rank."""

    def plain(one: AdapterSpec) -> Iterator[AdapterSpec]:
        yield from by_default(one, "content")
        if one.ranks:
            yield one.of_rank(one.rank)

    yield from (replace(case, adapters=adapters) for adapters in one_plainer(case.adapters, plain))
