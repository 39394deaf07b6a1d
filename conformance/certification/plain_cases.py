"""The plainest case of an existing class: what it is built and run with before anything is drawn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import nn

from conformance.certification.subjects import Found
from conformance.subjects.recipes import Recipe
from lora_compat.bound_loaders import LOADERS
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, Heads, LayerSpec
from strategies.forwards import Forward
from strategies.subclasses import Constructor, Loader, SubclassSpec


def subclass_of(found: Found) -> SubclassSpec:
    """The class as cases name it."""
    cls, base = found.cls, found.base
    forward = Forward.INHERITED
    if cls.forward is not base.forward:
        forward = Forward.EXTRA_ARGUMENT if len(_required(cls)) == 2 else Forward.OWN
    loads = any(getattr(cls, name, None) is not getattr(base, name, None) for name in LOADERS)
    return SubclassSpec(
        depth=1,
        constructor=Constructor.INHERITED if cls.__init__ is base.__init__ else Constructor.RENAMED,
        loader=Loader.PASS_THROUGH if loads else Loader.INHERITED,
        forward=forward,
        target=found.path,
        recipe=found.recipe,
    )


def plain_case(
    found: Found,
    *,
    tp_size: int = 1,
    fixed: dict[str, bool] | None = None,
    options: Mapping[str, bool] = MappingProxyType({}),
) -> Case:
    """A small case of the class, without adapters in use."""
    family = found.family
    heads = Heads(size=2, query=2 * tp_size, key_value=2 * tp_size) if family is Family.QKV else None
    sizes: tuple[int, ...] = (4 * tp_size,)
    if family is Family.MERGED_COLUMN:
        sizes = (4 * tp_size, 2 * tp_size)
    layer = LayerSpec(
        family=family,
        input_size=4 * tp_size,
        output_sizes=heads.output_sizes if heads else sizes,
        heads=heads,
    )
    layer = fitted(with_options(layer, options), found.built_by, fixed or {})
    return Case(
        layer=layer,
        subclass=subclass_of(found),
        tp_size=tp_size,
        adapters=(AdapterSpec(fused=len(layer.output_sizes) > 1),),
        tokens=(-1, -1, -1),
    )


def with_options(layer: LayerSpec, options: Mapping[str, bool]) -> LayerSpec:
    """The layer with other values of its boolean options."""
    given: dict[str, Any] = dict(options)
    return replace(layer, **given)


def fitted(layer: LayerSpec, recipe: Recipe, fixed: dict[str, bool]) -> LayerSpec:
    """The drawn ``layer`` with the options that the class has anyway, and the checkpoint tensors its recipe says."""
    options = dict(fixed)
    if layer.family is Family.ROW and not options.get("reduce_results", layer.reduce_results):
        # A bias cannot be added to partial sums: the base class refuses it.
        skips = options.get("skip_bias_add", layer.skip_bias_add)
        if options.get("bias", layer.bias) and not skips:
            options["reduce_results" if "reduce_results" not in fixed else "bias"] = "reduce_results" not in fixed
    layer = with_options(layer, options)
    return layer if recipe.outputs is None else replace(layer, output_sizes=recipe.outputs(layer))


def _required(cls: type[nn.Module]) -> list[str]:
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
