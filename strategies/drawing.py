"""`cases`: whole cases, drawn as one value."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.adapters import (
    MAX_RANKS,
    ROUNDED_SCALINGS,
    SCALINGS,
    Terms,
    draw_adapters,
    packed_lists,
    slot_sets,
    token_maps,
)
from strategies.cases import DTYPES, Case, Dtype, LayerSpec, Layout, Quantization, Regime, WrapperKind
from strategies.choices import numbers, sampled
from strategies.classes import FORWARDS, MAX_DEPTH, subclasses
from strategies.existing import Target, current_target, narrowed
from strategies.forwards import Forward
from strategies.large import enlarged, large_dimensions, roomy
from strategies.layers import FAMILIES, linear_layers
from strategies.nesting import nestings
from strategies.options import ONE_IN, Options
from strategies.parallel import TP_SIZES, tensor_parallel_sizes
from strategies.peculiar import with_peculiarities


def cases(
    *,
    families: tuple[Family, ...] = FAMILIES,
    tp_sizes: tuple[int, ...] = TP_SIZES,
    forwards: tuple[Forward, ...] = FORWARDS,
    min_depth: int = 0,
    max_depth: int = MAX_DEPTH,
    max_nesting: int = 0,
    min_outputs: int = 1,
    adapters: tuple[int, int] = (1, 3),
    tokens: tuple[int, int] = (1, 6),
    without_adapter: bool = True,
    layouts: tuple[Layout, ...] = (Layout.TWO_D,),
    dtypes: tuple[Dtype, ...] = DTYPES,
    regimes: tuple[Regime, ...] = tuple(Regime),
    quantizations: tuple[Quantization, ...] = (Quantization.NONE,),
    sharding: tuple[bool, ...] = (False, True),
    max_ranks: tuple[int, ...] = MAX_RANKS,
    biases: tuple[bool, ...] = (False, True),
    disable_tp: bool | None = None,
    scalings: tuple[float, ...] = SCALINGS,
    ranks: tuple[int, ...] = (),
    nestings: tuple[WrapperKind, ...] = tuple(WrapperKind),
    min_nesting: int = 0,
    large: int = ONE_IN,
) -> SearchStrategy[Case]:
    """Whole cases; shrinks to the plainest layer on one rank, one adapter of rank 1, one token.

    Args:
        families: the linear families drawn from.
        tp_sizes: the tensor-parallel sizes drawn from.
        forwards: the forward overrides drawn from.
        min_depth: levels of inheritance at least.
        max_depth: levels of inheritance at most.
        max_nesting: wrappers around the layer at most.
        min_outputs: outputs of a merged layer at least.
        adapters: least and most adapters.
        tokens: least and most tokens.
        without_adapter: whether some tokens may have no adapter.
        layouts: how the input may lie in memory.
        dtypes: dtypes of weights and activations.
        regimes: exact, rounded, or both.
        quantizations: how the base weight may be stored.
        sharding: values of ``fully_sharded_loras``.
        max_ranks: values of ``max_lora_rank``.
        biases: whether the layer may have a bias.
        disable_tp: drawn, rarely true, unless given.
        scalings: the adapters' scalings.
        ranks: the adapters' ranks, if not all up to ``max_lora_rank``.
        nestings: the kinds of wrappers around the layer.
        min_nesting: wrappers around the layer at least.
        large: in one case of so many a dimension is large.
    """
    return _cases(Options(**locals()))


@composite
def _cases(draw: DrawFn, options: Options) -> Case:
    target = current_target()
    if target is not None:
        options = narrowed(options, target)
    large = draw(large_dimensions(options, layers=target is None))
    case = _small(draw, roomy(options, large), target)
    return with_peculiarities(draw, enlarged(draw, case, large, options))


def _small(draw: DrawFn, options: Options, target: Target | None) -> Case:
    """A case of which nothing is large."""
    tp_size = draw(tensor_parallel_sizes(sizes=options.tp_sizes))
    layer = draw(_layers(tp_size, options))
    if target is not None:
        layer, subclass = target.fit(layer, tp_size), target.subclass
    else:
        subclass = draw(
            subclasses(layer, forwards=options.forwards, min_depth=options.min_depth, max_depth=options.max_depth)
        )
    packed = draw(packed_lists(layer))
    max_rank = draw(sampled(options.max_ranks))
    max_loras, slots = draw(slot_sets(sizes=options.adapters))
    layout, dtype, regime, quantization, fully_sharded = draw(_manners(options))
    exact = regime is Regime.EXACT or options.scalings is not SCALINGS
    scalings = options.scalings if exact else ROUNDED_SCALINGS
    terms = Terms(packed, len(layer.output_sizes), max_rank, 1, scalings, options.ranks, exact)
    chosen = draw_adapters(draw, slots, terms)
    least, most = options.tokens
    if subclass.forward.multiplies_itself:  # it would multiply with a weight that means nothing without its scales
        quantization = Quantization.NONE
    return Case(
        layer=layer,
        subclass=subclass,
        nesting=draw(_nesting(options)) if options.max_nesting else (),
        tp_size=tp_size,
        fully_sharded=tp_size > 1 and fully_sharded,
        max_loras=max_loras,
        max_rank=max_rank,
        packed=packed,
        adapters=chosen,
        tokens=draw(token_maps(adapters=len(chosen), min_size=least, max_size=most, without=options.without_adapter)),
        layout=layout,
        dtype=dtype,
        regime=regime,
        quantization=quantization,
        seed=draw(_seeds),
    )


@lru_cache(maxsize=256)
def _manners(options: Options) -> SearchStrategy[tuple[Layout, Dtype, Regime, Quantization, bool]]:
    """How a case is run: memory layout, dtype, regime, quantization, and whether adapters are fully sharded."""
    return sampled(
        tuple(product(options.layouts, options.dtypes, options.regimes, options.quantizations, options.sharding))
    )


_seeds = numbers(2**16, "seed")


def _layers(tp_size: int, options: Options) -> SearchStrategy[LayerSpec]:
    return linear_layers(
        tp_size=tp_size,
        families=options.families,
        min_outputs=options.min_outputs,
        biases=options.biases,
        disable_tp=options.disable_tp,
    )


def _nesting(options: Options) -> SearchStrategy[tuple[WrapperKind, ...]]:
    return nestings(min_depth=options.min_nesting, max_depth=options.max_nesting, kinds=options.nestings)
