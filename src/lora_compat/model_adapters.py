"""Adapters of whole models, as data, and how their tensors are laid out over the model's LoRA layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from torch import Tensor

from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.errors import AdapterFormatError, UnknownModulesError
from lora_compat.expert_parts import ExpertAdapter, ExpertsAdapter
from lora_compat.targets import PackedModules


@dataclass(frozen=True, slots=True, eq=False)
class ModuleAdapter:
    """One checkpoint module's LoRA A ``[rank, in]``, LoRA B ``[out, rank]`` and scaling, unsharded."""

    lora_a: Tensor
    lora_b: Tensor
    scaling: float = 1.0

    @property
    def part(self) -> SubAdapter:
        """The tensors alone."""
        return SubAdapter(self.lora_a, self.lora_b)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter of a model, by checkpoint module: packed layers by their children's names, or by their own."""

    modules: Mapping[str, ModuleAdapter]
    source: str = "in memory"


# One adapter, by LoRA layer: what the layer's kind takes.
LayerAdapters = Mapping[str, object]
# Which part of its layer a checkpoint module is: all of it, a member of a packed layer, or a projection of an expert.
Place = int | tuple[int, int] | None


@dataclass(slots=True)
class AdapterLayout:
    """Knows which LoRA layer takes which checkpoint module.

    ``names`` maps every name of a LoRA layer to the one it goes by, so an adapter may use any of them; ``experts``
    has the number of experts of each mixture. Their projections are checkpoint modules of their own, called
    ``<mixture>.<expert>.<projection>``.
    """

    names: Mapping[str, str]
    packed: PackedModules
    experts: Mapping[str, int] = field(default_factory=dict)
    _taken: dict[str, tuple[str, Place]] = field(init=False)

    def __post_init__(self) -> None:
        self._taken = {
            child: (name, place) for alias, name in self.names.items() for child, place in self._children(alias, name)
        }
        self._taken |= {
            alias: (name, None)
            for alias, name in self.names.items()
            if alias not in self._taken and name not in self.experts
        }

    def _children(self, alias: str, name: str) -> Iterator[tuple[str, Place]]:
        if name not in self.experts:
            yield from ((child, index) for index, child in enumerate(self.packed.members(alias)))
            return
        for expert, (index, part) in product(range(self.experts[name]), enumerate(self.packed.projections(alias))):
            yield f"{alias}.{expert}.{part}", (expert, index)

    @property
    def known(self) -> list[str]:
        """The names an adapter may use."""
        return sorted(self._taken)

    def by_layer(self, adapter: Adapter) -> LayerAdapters:
        """``adapter`` per LoRA layer; its tensors are shared, never written to.

        Raises:
            UnknownModulesError: it has a module that no LoRA layer takes.
            AdapterFormatError: it names the same weights twice, or nothing at all.
        """
        unknown = [name for name in adapter.modules if name not in self._taken]
        if unknown:
            raise UnknownModulesError(f"{adapter.source!r}", unknown, self.known)
        if not adapter.modules:
            raise AdapterFormatError(adapter.source, "it has no LoRA tensors")
        parts: dict[str, dict[Place, str]] = {}
        for checkpoint_name in adapter.modules:
            name, place = self._taken[checkpoint_name]
            twice = parts.setdefault(name, {})
            if place in twice or (twice and None in (place, *twice)):
                other = next(iter(twice.values()))
                raise AdapterFormatError(adapter.source, f"{checkpoint_name!r} and {other!r} are the same weights")
            twice[place] = checkpoint_name
        return {
            name: self._laid_out(name, {place: adapter.modules[one] for place, one in found.items()})
            for name, found in parts.items()
        }

    def _laid_out(self, name: str, found: Mapping[Place, ModuleAdapter]) -> LayerAdapter | ExpertsAdapter:
        if name in self.experts:
            return _experts(found, self.experts[name])
        if None in found:
            return LayerAdapter((found[None].part,), found[None].scaling)
        return one_scaling([found.get(index) for index in range(len(self.packed.members(name)))])


def _experts(found: Mapping[Place, ModuleAdapter], count: int) -> ExpertsAdapter:
    """Gate, up and down of each expert, in the order of `PackedModules.projections`."""
    flat = one_scaling([found.get((expert, part)) for expert in range(count) for part in range(3)])
    experts = [flat.parts[3 * expert : 3 * expert + 3] for expert in range(count)]
    return ExpertsAdapter(
        tuple(ExpertAdapter((gate, up), down) if gate or up or down else None for gate, up, down in experts),
        flat.scaling,
    )


def one_scaling(members: Sequence[ModuleAdapter | None]) -> LayerAdapter:
    """Members of a packed layer as one adapter; where their scalings differ, B takes the ratio, in a copy."""
    scaling = next((member.scaling for member in members if member is not None and member.scaling), 1.0)
    parts = [
        None
        if member is None
        else member.part
        if member.scaling == scaling
        else SubAdapter(member.lora_a, member.lora_b * (member.scaling / scaling))
        for member in members
    ]
    return LayerAdapter(tuple(parts), scaling)
