"""Linear layers of the five families, with every option they have."""

from __future__ import annotations

from functools import cache
from itertools import product

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from lora_compat.families import Family
from strategies.cases import Heads, LayerSpec
from strategies.choices import sampled, sequences

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
    # Wider than a kernel's smallest block, but for what many ranks multiply.
    input_size = draw(_inputs if family is Family.ROW and parts > 2 else _widths)
    heads = None
    sizes: tuple[int, ...]
    if family is Family.QKV:
        heads = draw(_heads(parts))
        sizes = heads.output_sizes
    elif family is Family.MERGED_COLUMN:
        units = sequences(UNITS, min_size=min_outputs, max_size=max(4, min_outputs), what="outputs")
        sizes = tuple(parts * unit for unit in draw(units))
    elif family is Family.ROW:
        input_size *= parts
        sizes = (draw(_units),)
    else:
        sizes = (draw(_units) * (parts if family is Family.COLUMN else 1),)
    bias, skip_bias_add, return_bias, gather_output, input_is_parallel, reduce_results = draw(_options(family, biases))
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


UNITS = (1, 2, 3, 4, 5, 6, 7)
_units = sampled(UNITS)
_inputs = sampled(UNITS, "input size")
_widths = sampled((*UNITS, 9, 17))
_rarely = sampled((False, False, False, False, True))


@cache
def _options(family: Family, biases: tuple[bool, ...]) -> SearchStrategy[tuple[bool, ...]]:
    """Bias, ``skip_bias_add``, ``return_bias``, ``gather_output``, ``input_is_parallel``, ``reduce_results``."""
    row = family is Family.ROW
    gathers = (False, True) if family in (Family.COLUMN, Family.MERGED_COLUMN) else (False,)
    every = product(biases, (False, True), (True, False), gathers, *([(True, False)] * 2 if row else [(True,)] * 2))
    # A bias cannot be added to partial sums: the constructor refuses it.
    return sampled(tuple(one for one in every if one[-1] or one[1] or not one[0]))


@cache
def _heads(parts: int) -> SearchStrategy[Heads]:
    """Geometries that ``parts`` ranks can share: KV heads divide the ranks, or the ranks divide them."""
    return sampled(
        tuple(
            Heads(size=size, query=query, key_value=key_value)
            for query in (parts, 2 * parts, 3 * parts)
            for size in (1, 2, 3)
            for key_value in range(1, query + 1)
            if parts % key_value == 0 or key_value % parts == 0
            # Several KV heads, each on several ranks, are the hardest to get right.
            for _ in range(3 if 1 < key_value < parts else 1)
        )
    )
