"""Simpler neighbours of a case, the largest simplifications first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.search.simplifications.fewer_ranks import fewer_ranks, with_heads
from conformance.search.simplifications.large import drawn_anew, smaller
from conformance.search.simplifications.parts import by_default, changed, max_ranks, one_less, one_plainer, put
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, Dtype, LayerSpec
from strategies.subclasses import SubclassSpec
from strategies.validity import is_valid

_OPTIONS = ("bias", "skip_bias_add", "return_bias", "gather_output", "input_is_parallel", "reduce_results")


def simpler(case: Case) -> Iterator[Case]:
    """Every case that is plainer than ``case`` in one part and can be built."""
    for one in (
        *fewer_ranks(case),
        *smaller(case),
        *_families(case),
        *_layers(case),
        *_classes(case),
        *_adapters(case),
        *drawn_anew(case),
        *_manners(case),
    ):
        if one != case and is_valid(one):
            yield one


def _families(case: Case) -> Iterator[Case]:
    """A plainer family: one output in place of several, a merged layer in place of a QKV layer."""
    layer = case.layer
    if case.subclass.target is not None:
        return
    if layer.family in (Family.MERGED_COLUMN, Family.QKV):
        adapters = tuple(replace(adapter, present=(True,), fused=False, ranks=()) for adapter in case.adapters)
        for family in (Family.REPLICATED, Family.COLUMN):
            single = LayerSpec(family=family, output_sizes=(case.tp_size,), disable_tp=layer.disable_tp)
            yield replace(case, layer=single, packed=(), adapters=adapters)
    if layer.family is Family.QKV:
        merged = replace(layer, family=Family.MERGED_COLUMN, heads=None)
        yield replace(case, layer=merged)
        unit = case.layer_tp_size
        yield replace(case, layer=replace(merged, output_sizes=(unit,) * len(layer.output_sizes)))
    if layer.family in (Family.COLUMN, Family.ROW):
        yield replace(case, layer=replace(layer, family=Family.REPLICATED))


def _layers(case: Case) -> Iterator[Case]:
    layer, parts = case.layer, case.layer_tp_size
    yield from (replace(case, layer=one) for one in by_default(layer, *_OPTIONS))
    for width in sorted({parts if layer.family is Family.ROW else 1, layer.input_size - parts}):
        if 0 < width < layer.input_size:
            yield replace(case, layer=replace(layer, input_size=width))
    if layer.heads is not None:
        fewest = replace(layer.heads, query=parts, key_value=min(parts, layer.heads.key_value))
        yield from (with_heads(case, heads) for heads in (replace(layer.heads, size=1), fewest))
        return
    unit = 1 if layer.family in (Family.REPLICATED, Family.ROW) else parts
    fewer = one_plainer(layer.output_sizes, lambda size: sorted({unit, 2 * unit, size - unit} & {*range(1, size)}))
    yield from (replace(case, layer=replace(layer, output_sizes=sizes)) for sizes in fewer)
    if len(set(layer.output_sizes)) == 1 and layer.output_sizes[0] > unit:  # where they must be equal
        yield replace(case, layer=replace(layer, output_sizes=(unit,) * len(layer.output_sizes)))
    yield from _fewer_outputs(case)


def _fewer_outputs(case: Case) -> Iterator[Case]:
    """One output less of a merged layer, with what the adapters had for it."""
    sizes = case.layer.output_sizes
    if len(sizes) < 2:
        return
    for index in reversed(range(len(sizes))):
        left = replace(case.layer, output_sizes=put(sizes, index))
        if len(case.packed) == len(sizes):
            yield replace(
                case,
                layer=left,
                packed=(1,) * (len(sizes) - 1),
                adapters=tuple(_without_part(adapter, index, len(sizes)) for adapter in case.adapters),
            )
        else:
            for packed in ((), (len(sizes) - 1,), (1,) * (len(sizes) - 1)):
                fused = len(packed) != 1 and len(sizes) > 2
                adapters = tuple(replace(one, fused=one.fused and fused, ranks=()) for one in case.adapters)
                yield replace(case, layer=left, packed=packed, adapters=adapters)


def _without_part(adapter: AdapterSpec, index: int, outputs: int) -> AdapterSpec:
    if adapter.fused:
        return replace(adapter, fused=outputs > 2)
    present, left = put(adapter.present, index), put(adapter.ranks, index)
    ranks = left if max(left, default=0) == adapter.rank else ()
    return replace(adapter, present=present if any(present) else (True,) * len(present), ranks=ranks)


def _classes(case: Case) -> Iterator[Case]:
    subclass = case.subclass
    if subclass.target is not None:
        return
    yield replace(case, subclass=SubclassSpec())
    shallower = (replace(subclass, depth=depth) for depth in range(1, subclass.depth))
    plainer = by_default(subclass, "mixins", "dynamic", "constructor", "loader", "forward")
    yield from (replace(case, subclass=one) for one in (*shallower, *plainer))
    yield from (replace(case, nesting=left) for left in one_less(case.nesting))


def _adapters(case: Case) -> Iterator[Case]:
    for index in range(len(case.tokens)):
        if len(case.tokens) > 1:
            yield replace(case, tokens=put(case.tokens, index))
        if case.tokens[index] > 0:
            yield replace(case, tokens=put(case.tokens, index, 0))
    for index in range(len(case.adapters)):
        if len(case.adapters) > 1 and index not in case.tokens:
            moved = tuple(token - (token > index) for token in case.tokens)
            yield replace(case, adapters=put(case.adapters, index), tokens=moved)
    fewest = max((adapter.slot + 1 for adapter in case.adapters), default=1)
    if fewest < case.max_loras:
        yield replace(case, max_loras=fewest)
    if [adapter.slot for adapter in case.adapters] != list(range(len(case.adapters))):
        first = tuple(replace(adapter, slot=slot) for slot, adapter in enumerate(case.adapters))
        yield replace(case, adapters=first, max_loras=len(first))
        yield replace(case, adapters=first)
    yield from (replace(case, adapters=adapters) for adapters in one_plainer(case.adapters, _plainer))
    yield from changed(case, *max_ranks(case.max_rank, [adapter.rank for adapter in case.adapters]))


def _plainer(adapter: AdapterSpec) -> Iterator[AdapterSpec]:
    if adapter.alpha != adapter.rank or adapter.rslora:
        yield replace(adapter, alpha=float(adapter.rank), rslora=False)
        yield replace(adapter, alpha=adapter.scaling * adapter.rank, rslora=False)
    for rank in sorted({1, 2, adapter.rank // 2, adapter.rank - 1}):
        if 0 < rank < adapter.rank:
            yield adapter.of_rank(rank)
    if not all(adapter.present):
        yield replace(adapter, present=(True,) * len(adapter.present))


def _of_rank_two(case: Case) -> Case:
    adapters = tuple(adapter.of_rank(2) if adapter.rank == 1 else adapter for adapter in case.adapters)
    return replace(
        case, adapters=adapters, max_rank=max(case.max_rank, 2 * (case.tp_size if case.fully_sharded else 1))
    )


def _manners(case: Case) -> Iterator[Case]:
    plain = replace(case.exact(), dtype=Dtype.FLOAT32)
    if plain != case:  # small integers hide some mistakes with some seeds
        yield from (plain, *(replace(plain, seed=seed) for seed in range(6)))
        wider = _of_rank_two(plain)  # of rank 1 every row of a small integer LoRA B is alike
        yield from (replace(wider, seed=seed) for seed in range(6))
    yield case.exact()
    yield from by_default(case, "dtype", "layout", "quantization")
    yield from (replace(case, seed=seed) for seed in range(min(case.seed, 12)))
