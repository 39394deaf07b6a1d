"""The same case on fewer ranks, and with less that is shared among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.search.simplifications.parts import by_default
from lora_compat.families import Family
from strategies.cases import Case, Heads


def fewer_ranks(case: Case) -> Iterator[Case]:
    """Fewer ranks, with sizes that fewer ranks can share."""
    smaller = [size for size in (1, 2, 4, 8, 16) if size < case.tp_size]
    for size in smaller:
        yield replace(_cut(case, case.tp_size // size), tp_size=size, fully_sharded=case.fully_sharded and size > 1)
        yield replace(case, tp_size=size, fully_sharded=case.fully_sharded and size > 1)
        if case.layer.heads is not None and not case.layer.disable_tp:
            factor, heads = case.tp_size // size, case.layer.heads
            fewer = Heads(heads.size, max(1, heads.query // factor), max(1, heads.key_value // factor))
            yield replace(with_heads(case, fewer), tp_size=size, fully_sharded=case.fully_sharded and size > 1)
    yield from by_default(case, "fully_sharded")
    yield from (replace(case, layer=layer) for layer in by_default(case.layer, "disable_tp"))


def with_heads(case: Case, heads: Heads) -> Case:
    """The case with other heads of its QKV layer."""
    return replace(case, layer=replace(case.layer, heads=heads, output_sizes=heads.output_sizes))


def _cut(case: Case, factor: int) -> Case:
    """The sizes that the ranks share, divided."""
    layer = case.layer
    if layer.disable_tp or layer.family is Family.REPLICATED:
        return case
    if layer.family is Family.ROW:
        return replace(case, layer=replace(layer, input_size=max(1, layer.input_size // factor)))
    if layer.heads is not None:
        heads = replace(layer.heads, query=max(1, layer.heads.query // factor))
        return with_heads(case, replace(heads, key_value=min(heads.key_value, heads.query)))
    sizes = tuple(max(1, size // factor) for size in layer.output_sizes)
    return replace(case, layer=replace(layer, output_sizes=sizes))
