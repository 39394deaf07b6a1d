"""Recipes: how an existing class is built from a drawn geometry; inferred from its constructor, or written.

A recipe is a function from a `Geometry` to a built layer. The decorator `recipe` adds what cannot be read off the
layer: how many checkpoint tensors it takes, and by which shard ids.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import entry_points

import torch
from torch import nn

from conformance.certification.zoo import RECIPES
from lora_compat.families import Family, registry
from lora_compat.sharding import shard_id
from strategies.cases import Heads, LayerSpec, SubclassSpec
from strategies.source import base_arguments

ENTRY_POINTS = "lora_compat.recipes"
_RETURNING = ("bias", "skip_bias_add", "return_bias")
OPTIONS = (*_RETURNING, "gather_output", "input_is_parallel", "reduce_results", "disable_tp")
# Other names that constructors give to the size parameters of the family's base class.
_SYNONYMS = {
    "input_size": ("hidden_size", "in_features", "d_in", "dim", "embed_dim"),
    "hidden_size": ("input_size", "in_features", "d_in", "dim", "embed_dim"),
    "output_size": ("out_features", "d_out", "output_dim"),
    "output_sizes": ("output_size", "widths"),
    "head_size": ("head_dim", "d_head"),
    "total_num_heads": ("num_heads", "n_heads", "heads"),
    "total_num_kv_heads": ("num_kv_heads", "num_key_value_heads", "kv_heads"),
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a recipe builds: sizes of the whole layer, before tensor parallelism cuts it.

    ``output_sizes`` are the rows of each checkpoint tensor; ``heads`` is given for QKV layers; ``options`` has
    ``bias``, ``skip_bias_add`` and the other options of the family's base class; ``arguments`` are the keyword
    arguments that the base class would take, without those that say what its defaults say; ``quant_config`` is None
    but for quantized cases. Torch's default dtype is ``dtype`` while the recipe runs, and the tensor-parallel group
    is in place.
    """

    family: Family
    input_size: int
    output_sizes: tuple[int, ...]
    heads: Heads | None
    tp_size: int
    dtype: torch.dtype
    options: Mapping[str, bool]
    arguments: Mapping[str, object]
    quant_config: object = None

    @property
    def output_size(self) -> int:
        """Rows of the whole weight."""
        return sum(self.output_sizes)

    @classmethod
    def of(cls, layer: LayerSpec, tp_size: int, dtype: torch.dtype, quant_config: object = None) -> Geometry:
        """The geometry of a drawn layer."""
        options = {name: bool(getattr(layer, name)) for name in OPTIONS}
        return cls(
            family=layer.family,
            input_size=layer.input_size,
            output_sizes=layer.output_sizes,
            heads=layer.heads,
            tp_size=tp_size,
            dtype=dtype,
            options=options,
            arguments=base_arguments(layer),
            quant_config=quant_config,
        )


Build = Callable[[Geometry], nn.Module]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to build a class, and what its checkpoint looks like.

    Attributes:
        build: the layer of a geometry.
        outputs: the checkpoint rows of each output for a drawn layer; None where they are those drawn.
        shard_ids: the weight loader's extra argument for each output; None where they are the family's.
        tp_sizes: the TP sizes that the class can be built in; None for all.
    """

    build: Build
    outputs: Callable[[LayerSpec], tuple[int, ...]] | None = None
    shard_ids: tuple[int | str, ...] | None = None
    tp_sizes: tuple[int, ...] | None = None
    missing: tuple[str, ...] = field(default=())

    def shard_id(self, family: Family, index: int) -> tuple[int | str, ...]:
        """The extra argument of the weight loader for output ``index``, if any."""
        return shard_id(family, index) if self.shard_ids is None else (self.shard_ids[index],)


def recipe(
    *,
    outputs: Callable[[LayerSpec], tuple[int, ...]] | None = None,
    shard_ids: tuple[int | str, ...] | None = None,
    tp_sizes: tuple[int, ...] | None = None,
) -> Callable[[Build], Build]:
    """Decorates a recipe function with what cannot be read off the built layer; see `Recipe`."""

    def decorate(build: Build) -> Build:
        build.recipe = Recipe(build, outputs, shard_ids, tp_sizes)  # type: ignore[attr-defined]
        return build

    return decorate


class RecipeNotFoundError(Exception):
    """A ``--recipe`` that is no ``module:function``."""

    def __init__(self, given: str, problem: str) -> None:
        super().__init__(
            f"--recipe {given!r}: {problem}; give an importable module:function that takes a Geometry and returns the "
            "built layer"
        )


@cache
def load_recipe(reference: str) -> Recipe:
    """The recipe at ``module:function``.

    Raises:
        RecipeNotFoundError: there is no such function.
    """
    module, colon, name = reference.partition(":")
    if not colon:
        raise RecipeNotFoundError(reference, "it has no colon")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeNotFoundError(reference, str(error)) from error
    if not callable(found):
        raise RecipeNotFoundError(reference, f"it is a {type(found).__name__}, no function")
    return getattr(found, "recipe", None) or Recipe(found)


def registered_recipe(path: str) -> str | None:
    """The recipe that the project or an installed package has for the class at ``package.module:Class``, if any."""
    dotted = path.replace(":", ".")
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == dotted:
            return point.value
    return RECIPES.get(path)


@cache
def recipe_of(subclass: SubclassSpec) -> Recipe:
    """The recipe of a target: its own, or the one inferred from the constructor."""
    assert subclass.target is not None
    return load_recipe(subclass.recipe) if subclass.recipe else inferred(load_class(subclass.target))


def load_class(path: str) -> type[nn.Module]:
    """The class at ``package.module:Class``; a nested one is ``Outer.Inner``."""
    module, _, qualname = path.partition(":")
    found: object = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    assert isinstance(found, type)
    return found


def inferred(cls: type[nn.Module]) -> Recipe:
    """The recipe that passes each constructor parameter what its name asks for.

    ``missing`` names the required parameters whose value nobody can know.
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    names = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    required = [one.name for one in parameters if one.default is one.empty and one.name in names]
    found = registry.lookup(cls)
    known = _known_names(found[1]) if found else set()
    missing = tuple(name for name in required if not _source_of(name, known))
    return Recipe(partial(_build, cls, frozenset(names), takes_any), missing=missing)


def _known_names(family: Family) -> set[str]:
    sizes = {"hidden_size", "head_size", "total_num_heads", "total_num_kv_heads"}
    if family is not Family.QKV:
        sizes = {"input_size", "output_sizes" if family is Family.MERGED_COLUMN else "output_size"}
    return sizes | {*OPTIONS, "params_dtype", "tp_size", "quant_config"}


def _source_of(name: str, known: set[str]) -> str | None:
    """The base-class parameter whose value goes into constructor parameter ``name``."""
    if name in known:
        return name
    return next((base for base in sorted(known) if name in _SYNONYMS.get(base, ())), None)


def argument_lines(cls: type, family: Family) -> list[str]:
    """The constructor's arguments as source, ``...`` with the annotation where nobody can know the value."""
    known = _known_names(family)
    lines = []
    for one in list(inspect.signature(cls.__init__).parameters.values())[1:]:  # type: ignore[misc]
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        source = _source_of(one.name, known)
        if source is None and one.default is not one.empty:
            continue
        if source is None:
            hint = "" if one.annotation is one.empty else f"  # {inspect.formatannotation(one.annotation)}"
            lines.append(f"{one.name}=...,{hint}")
        elif source not in ("params_dtype", "quant_config"):
            lines.append(f"{one.name}={_expression(source)},")
    return lines


def _expression(source: str) -> str:
    if source == "tp_size":
        return "geometry.tp_size"
    if source in OPTIONS:
        return f'geometry.options["{source}"]'
    return f'geometry.arguments["{source}"]'


def _build(cls: type[nn.Module], names: frozenset[str], takes_any: bool, geometry: Geometry) -> nn.Module:
    values = {**geometry.options, **geometry.arguments, "params_dtype": geometry.dtype, "tp_size": geometry.tp_size}
    if geometry.quant_config is not None:
        values["quant_config"] = geometry.quant_config
    sources = {name: _source_of(name, set(values)) for name in names}
    given = {name: values[source] for name, source in sources.items() if source is not None}
    if takes_any:
        passed_on = {**geometry.arguments}
        if geometry.quant_config is not None:
            passed_on["quant_config"] = geometry.quant_config
        given |= {name: value for name, value in passed_on.items() if name not in sources.values()}
    return cls(**given)
