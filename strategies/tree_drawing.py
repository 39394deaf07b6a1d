"""Trees of layers of every family, modules that are none, and modules with two names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from lora_compat.families import Family
from strategies.adapters import packed_lists
from strategies.choices import numbers, sampled, sequences
from strategies.classes import UNCHANGED, subclasses
from strategies.layers import FAMILIES, linear_layers
from strategies.parallel import tensor_parallel_sizes
from strategies.subclasses import Loader
from strategies.trees import ModelSpec, ModuleKind, ModuleSpec

FOREIGN = (ModuleKind.NN_LINEAR, ModuleKind.EMBEDDING, ModuleKind.NORM, ModuleKind.LOOKALIKE, ModuleKind.HOLDER)
# Packed layers have last parts of their own, as the packed mapping goes by them; "vision.q_proj" is no packed
# layer but is named like a child of one; "layers.1.o_proj" holds a layer and is named like one.
NAMES: dict[Family, tuple[str, ...]] = {
    Family.REPLICATED: ("layers.0.mlp.gate", "layers.1.mlp.gate", "layers.0.attn.kv_a_proj"),
    Family.COLUMN: ("layers.0.mlp.fc1", "layers.1.mlp.fc1", "vision.q_proj", "layers.0.mlp.xfc1"),
    Family.ROW: ("layers.0.attn.o_proj", "layers.1.o_proj.inner", "vision.fc2", "layers.1.mlp.down_proj"),
    Family.QKV: ("layers.0.attn.qkv_proj", "vision.c_attn"),
    Family.MERGED_COLUMN: ("layers.0.mlp.gate_up_proj", "layers.1.mlp.in_proj", "vision.fused"),
}
OTHER_NAMES: dict[ModuleKind, tuple[str, ...]] = {
    ModuleKind.NN_LINEAR: ("head", "layers.1.attn.o_proj"),
    ModuleKind.EMBEDDING: ("embed",),
    ModuleKind.NORM: ("layers.0.norm",),
    ModuleKind.LOOKALIKE: ("layers.1.attn.kv_a_proj", "vision.proj"),
    ModuleKind.HOLLOW: ("layers.0.hollow",),
}
_CHILDREN = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("c_q", "c_k", "c_v"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


@composite
def models(
    draw: DrawFn,
    *,
    families: tuple[Family, ...] = FAMILIES,
    linears: tuple[int, int] = (1, 4),
    others: tuple[int, int] = (0, 2),
    other_kinds: tuple[ModuleKind, ...] = FOREIGN,
    tp_sizes: tuple[int, ...] = (1, 2, 4),
    plain: bool = False,
    aliases: tuple[bool, ...] = (False, False, False, True),
    towers: bool = True,
    max_depth: int = 2,
) -> ModelSpec:
    """Trees; shrinks to one replicated layer on one rank.

    Args:
        families: the families of its layers.
        linears: least and most layers.
        others: least and most modules that cannot carry LoRA.
        other_kinds: what these may be.
        tp_sizes: the tensor-parallel sizes drawn from.
        plain: every packed layer has one name per output, no class loads weights its own way, and most models have
            base classes alone, so that all there is to go wrong are names and the adapters' coming and going.
        aliases: whether a layer has a second name.
        towers: whether a part of the model may have token maps of its own.
        max_depth: levels of inheritance of its layers' classes at most; none of them changes the forward.
    """
    tp_size = draw(tensor_parallel_sizes(sizes=tp_sizes))
    free = tuple(name for family in families for name in NAMES[family])
    chosen = draw(st.lists(sampled(free), min_size=linears[0], max_size=linears[1], unique=True))
    depth = draw(sampled((0, 0, 0, max_depth), "depth")) if plain else max_depth
    modules = [draw(_linear(index, name, tp_size, plain, aliases, depth)) for index, name in enumerate(chosen)]
    taken = {name for module in modules for name in module.names}
    kinds = draw(sequences(other_kinds, min_size=others[0], max_size=others[1], what="others"))
    holder = f"side.{chosen[0].rpartition('.')[2]}"
    modules += [
        ModuleSpec(name, kind) for name, kind in _free(kinds, taken, {**OTHER_NAMES, ModuleKind.HOLDER: (holder,)})
    ]
    tower = "vision" if towers and any("vision." in name for name in taken) and draw(numbers(4, "tower")) == 3 else ""
    return ModelSpec(tuple(modules), tp_size, tower)


def _free(
    kinds: tuple[ModuleKind, ...], taken: set[str], names: dict[ModuleKind, tuple[str, ...]]
) -> Iterator[tuple[str, ModuleKind]]:
    """A name for each kind that still has one."""
    for kind in kinds:
        name = next((name for name in names[kind] if name not in taken), None)
        if name is not None:
            taken.add(name)
            yield name, kind


@cache
@composite
def _linear(
    draw: DrawFn, index: int, name: str, tp_size: int, plain: bool, aliases: tuple[bool, ...], max_depth: int
) -> ModuleSpec:
    family = next(family for family, names in NAMES.items() if name in names)
    outputs = 2 if plain else 1
    layer = draw(linear_layers(tp_size=tp_size, families=(family,), min_outputs=outputs, disable_tp=False))
    exact = (1,) * len(layer.output_sizes) if family.packed else ()
    packed = exact if plain else draw(packed_lists(layer))
    subclass = draw(subclasses(layer, forwards=UNCHANGED, max_depth=max_depth))
    prefix, _, last = name.rpartition(".")
    aliased = draw(sampled(aliases, f"alias {index}"))
    return ModuleSpec(
        name=name,
        layer=layer,
        subclass=replace(subclass, loader=Loader.INHERITED) if plain else subclass,
        packed=packed,
        children=_children(last, len(packed)),
        alias=f"{prefix}.shared.{last}" if aliased else "",
        alias_first=aliased and draw(sampled((False, True), f"alias {index} first")),
    )


def _children(last: str, count: int) -> tuple[str, ...]:
    """Names for the parts of a packed layer; a single part goes by the layer's own name."""
    if count < 2:
        return (last,) * count
    known = _CHILDREN.get(last, ())
    return known if len(known) == count else tuple(f"{last}_{letter}" for letter in "abcdefgh"[:count])
