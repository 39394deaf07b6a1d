"""Linear layers of the five families, with every option they have."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.cases import Heads, LayerSpec
from strategies.choices import sampled

FAMILIES = tuple(Family)


def linear_layers(
    *,
    tp_size: int = 1,
    families: tuple[Family, ...] = FAMILIES,
    min_outputs: int = 1,
    biases: tuple[bool, ...] = (False, True),
    disable_tp: bool | None = None,
) -> SearchStrategy[LayerSpec]:
    """Layers that ``tp_size`` ranks can share; shrinks to the first family, one input, one output, no option set.

    Args:
        tp_size: the size of the group the layer will be built in.
        families: the families drawn from.
        min_outputs: the least number of outputs of a merged layer.
        biases: whether there may be a bias.
        disable_tp: drawn (rarely true) unless given.
    """
    return _linear_layers(tp_size, families, min_outputs, biases, disable_tp)


@cache
@composite
def _linear_layers(
    draw: DrawFn,
    tp_size: int,
    families: tuple[Family, ...],
    min_outputs: int,
    biases: tuple[bool, ...],
    disable_tp: bool | None,
) -> LayerSpec:
    family = draw(sampled(families))
    if disable_tp is None:
        disable_tp = tp_size > 1 and draw(_rarely)
    parts = 1 if disable_tp else tp_size
    input_size = draw(_units)
    heads = None
    sizes: tuple[int, ...]
    if family is Family.QKV:
        heads = draw(_heads(parts))
        sizes = heads.output_sizes
    elif family is Family.MERGED_COLUMN:
        sizes = tuple(parts * unit for unit in draw(_unit_lists(min_outputs)))
    elif family is Family.ROW:
        input_size *= parts
        sizes = (draw(_units),)
    else:
        sizes = (draw(_units) * (parts if family is Family.COLUMN else 1),)
    bias, skip_bias_add, return_bias = draw(sampled(_bias_options(biases)))
    gather_output = family in (Family.COLUMN, Family.MERGED_COLUMN) and draw(st.booleans())
    input_is_parallel, reduce_results = True, True
    if family is Family.ROW:
        input_is_parallel, reduce_results = draw(_row_options)
        if not reduce_results:
            skip_bias_add = skip_bias_add or bias  # the constructor refuses a bias on partial sums
    return LayerSpec(
        family=family,
        input_size=input_size,
        output_sizes=sizes,
        heads=heads,
        bias=bias,
        skip_bias_add=skip_bias_add,
        return_bias=return_bias,
        gather_output=gather_output,
        input_is_parallel=input_is_parallel,
        reduce_results=reduce_results,
        disable_tp=disable_tp,
    )


_units = st.integers(1, 7)
_rarely = st.sampled_from((False, False, False, False, True))
_row_options = st.sampled_from([(True, True), (False, True), (True, False), (False, False)])


@cache
def _unit_lists(least: int) -> SearchStrategy[list[int]]:
    return st.lists(_units, min_size=least, max_size=max(4, least))


def _bias_options(biases: tuple[bool, ...]) -> tuple[tuple[bool, bool, bool], ...]:
    """Choices of bias, ``skip_bias_add`` and ``return_bias``."""
    return tuple((bias, skip, back) for bias in biases for skip in (False, True) for back in (True, False))


@cache
@composite
def _heads(draw: DrawFn, parts: int) -> Heads:
    size = draw(st.integers(1, 3))
    query = parts * draw(st.integers(1, 3))
    divisors = [count for count in range(1, query + 1) if parts % count == 0 or count % parts == 0]
    return Heads(size=size, query=query, key_value=draw(sampled(tuple(divisors))))
