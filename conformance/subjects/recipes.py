"""Recipes: how an existing class is built from a drawn geometry; inferred (`constructors`), or written.

A recipe is a function from a `Geometry` to a built layer. The decorator `recipe` adds what cannot be read off the
layer: how many checkpoint tensors it takes, and by which shard ids.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points

import torch
from torch import nn

from conformance.subjects.outcomes import HarnessError
from conformance.subjects.zoo_index import RECIPES
from lora_compat.families import Family
from lora_compat.sharding import shard_id
from strategies.cases import Heads, LayerSpec
from strategies.constructors import base_arguments

ENTRY_POINTS = "lora_compat.recipes"
_RETURNING = ("bias", "skip_bias_add", "return_bias")
OPTIONS = (*_RETURNING, "gather_output", "input_is_parallel", "reduce_results", "disable_tp")


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


class RecipeNotFoundError(HarnessError):
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


class ClassNotFoundError(HarnessError):
    """An existing class that a case is about, and that is not here."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"{path} cannot be imported: {problem}; install the package that has it, or add the folder that holds "
            f"{path.partition('.')[0].partition(':')[0]!r} to PYTHONPATH"
        )


def load_class(path: str) -> type[nn.Module]:
    """The class at ``package.module:Class``; a nested one is ``Outer.Inner``.

    Raises:
        ClassNotFoundError: there is none.
    """
    module, _, qualname = path.partition(":")
    try:
        found: object = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ClassNotFoundError(path, str(error)) from error
    assert isinstance(found, type)
    return found
