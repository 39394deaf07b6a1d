"""Subclasses of linear layers: how deep they derive, how they are made, and what they override."""

from __future__ import annotations

from functools import cache
from itertools import product

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.cases import LayerSpec
from strategies.choices import sampled
from strategies.forwards import Forward
from strategies.subclasses import Constructor, Loader, Mixins, SubclassSpec

MAX_DEPTH = 5
FORWARDS = tuple(Forward)
UNCHANGED = (Forward.INHERITED,)
OVERRIDDEN = tuple(forward for forward in Forward if forward is not Forward.INHERITED)
# What a forward may do to a partial sum and still leave the sum over the ranks meaningful.
_LINEAR = (Forward.INHERITED, Forward.PASS_THROUGH, Forward.SCALED, Forward.CAST, Forward.SPLIT,
           Forward.BARE_TENSOR, Forward.TUPLE, Forward.TWICE, Forward.PERMUTED, Forward.SCALED_INPUT,
           Forward.LARGEST_OF_TWO, Forward.LARGEST_SO_FAR)  # fmt: skip


def possible_forwards(layer: LayerSpec, forwards: tuple[Forward, ...] = FORWARDS) -> tuple[Forward, ...]:
    """Those of ``forwards`` that make sense on ``layer``."""
    return tuple(forward for forward in forwards if _possible(layer, forward))


def _possible(layer: LayerSpec, forward: Forward) -> bool:
    if forward is Forward.OWN:
        return False
    if forward.multiplies_itself:  # they do not gather or reduce
        return layer.family is not Family.ROW and not layer.gather_output
    if forward is Forward.BARE_TENSOR:
        return layer.return_bias
    if forward is Forward.TUPLE:
        return not layer.return_bias
    if layer.family is Family.ROW and forward.needs_whole_tokens:
        return False
    if layer.family is Family.ROW and not layer.reduce_results:
        return forward in _LINEAR
    return True


def possible_loaders(layer: LayerSpec) -> tuple[Loader, ...]:
    """The loader overrides that make sense on ``layer``."""
    replicable = layer.family is Family.MERGED_COLUMN and len(layer.output_sizes) > 1 and not layer.gather_output
    return tuple(loader for loader in Loader if loader is not Loader.REPLICATED_LAST or replicable)


def subclasses(
    layer: LayerSpec,
    *,
    forwards: tuple[Forward, ...] = FORWARDS,
    min_depth: int = 0,
    max_depth: int = MAX_DEPTH,
) -> SearchStrategy[SubclassSpec]:
    """Classes derived from the base class of ``layer``; shrinks to the base class itself, or one that adds nothing.

    Args:
        layer: the layer that will be built; it decides which overrides are possible.
        forwards: the forward overrides drawn from; where none is possible the forward is inherited.
        min_depth: levels of inheritance at least; 0 allows the base class itself.
        max_depth: levels of inheritance at most.
    """
    possible = possible_forwards(layer, forwards) or UNCHANGED
    if Forward.INHERITED not in possible:
        min_depth = max(1, min_depth)
    return _subclasses(possible_loaders(layer), possible, min_depth, max_depth)


@cache
@composite
def _subclasses(
    draw: DrawFn, loaders: tuple[Loader, ...], forwards: tuple[Forward, ...], min_depth: int, max_depth: int
) -> SubclassSpec:
    depth = draw(sampled(tuple(range(min_depth, max_depth + 1))))
    if depth == 0:
        return SubclassSpec()
    mixins, dynamic, constructor = draw(_makings)
    loader, forward = draw(_overrides(loaders, forwards))
    return SubclassSpec(
        depth=depth, mixins=mixins, dynamic=dynamic, constructor=constructor, loader=loader, forward=forward
    )


_makings = sampled(tuple(product(Mixins, (False, True), Constructor)))


@cache
def _overrides(loaders: tuple[Loader, ...], forwards: tuple[Forward, ...]) -> SearchStrategy[tuple[Loader, Forward]]:
    return sampled(tuple(product(loaders, forwards)))
