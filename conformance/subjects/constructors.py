"""How a class wants to be constructed: the recipe that its signature tells, or as much of one as it does."""

from __future__ import annotations

import inspect
from functools import cache, partial

from torch import nn

from conformance.subjects.recipes import OPTIONS, Geometry, Recipe, load_class, load_recipe
from lora_compat.families import Family, registry
from strategies.subclasses import SubclassSpec

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


@cache
def recipe_of(subclass: SubclassSpec) -> Recipe:
    """The recipe of a target: its own, or the one inferred from the constructor."""
    assert subclass.target is not None
    return load_recipe(subclass.recipe) if subclass.recipe else inferred(load_class(subclass.target))


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


def recipe_to_paste(path: str, cls: type, family: Family) -> str:
    """A recipe for ``cls``, filled in as far as its signature's names are understood."""
    module, _, name = path.partition(":")
    return "\n".join(
        [
            "Write a recipe, and certify with --recipe my_recipes:build:",
            "",
            "    # my_recipes.py",
            "    from conformance.subjects.recipes import Geometry",
            f"    from {module} import {name.partition('.')[0]}",
            "",
            "",
            "    def build(geometry: Geometry):",
            f"        return {name}(",
            *(f"            {line}" for line in argument_lines(cls, family)),
            "        )",
        ]
    )
