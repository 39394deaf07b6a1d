"""What the constructors of the families and of their subclasses are called with."""

from __future__ import annotations

from lora_compat.families import Family
from strategies.cases import LayerSpec
from strategies.libraries import Library
from strategies.subclasses import Constructor, SubclassSpec

# How a constructor with names of its own calls its sizes.
_OTHER_NAMES = {
    "input_size": "d_in",
    "in_features": "d_in",
    "hidden_size": "d_in",
    "output_size": "d_out",
    "out_features": "d_out",
    "output_sizes": "widths",
    "head_size": "d_head",
    "total_num_heads": "heads",
    "total_num_kv_heads": "kv_heads",
}


def positional_names(family: Family, library: Library = Library.LORA_COMPAT) -> tuple[str, ...]:
    """The size parameters of a family's constructor, in order."""
    if library is Library.TORCH:
        return "in_features", "out_features"
    if family is Family.QKV:
        return "hidden_size", "head_size", "total_num_heads", "total_num_kv_heads"
    return "input_size", "output_sizes" if family is Family.MERGED_COLUMN else "output_size"


def base_arguments(layer: LayerSpec, library: Library = Library.LORA_COMPAT) -> dict[str, object]:
    """The keyword arguments of the family's base class, but for those that say what the default says."""
    sizes: tuple[object, ...]
    if layer.family is Family.QKV:
        assert layer.heads is not None
        sizes = (layer.input_size, layer.heads.size, layer.heads.query, layer.heads.key_value)
    elif layer.family is Family.MERGED_COLUMN:
        sizes = (layer.input_size, list(layer.output_sizes))
    else:
        sizes = (layer.input_size, layer.output_sizes[0])
    named = dict(zip(positional_names(layer.family, library), sizes, strict=True))
    options: dict[str, object] = {"bias": layer.bias}
    if library is Library.TORCH:
        return named | options
    if layer.family in (Family.COLUMN, Family.MERGED_COLUMN):
        options["gather_output"] = layer.gather_output
    if layer.family is Family.ROW:
        options |= {"input_is_parallel": layer.input_is_parallel, "reduce_results": layer.reduce_results}
    options |= {name: True for name in ("skip_bias_add", "disable_tp") if getattr(layer, name)}
    if not layer.return_bias:
        options["return_bias"] = False
    return named | options


def constructor_arguments(
    layer: LayerSpec, subclass: SubclassSpec, library: Library = Library.LORA_COMPAT
) -> dict[str, object]:
    """The keyword arguments that build the rendered class."""
    if subclass.constructor is Constructor.HARD_CODED and subclass.depth:
        return {}
    arguments = base_arguments(layer, library)
    if subclass.constructor is Constructor.RENAMED and subclass.depth:
        return {renamed(name): value for name, value in arguments.items()}
    return arguments


def renamed(name: str) -> str:
    """What a constructor with names of its own calls the parameter ``name``."""
    return _OTHER_NAMES.get(name, name)
