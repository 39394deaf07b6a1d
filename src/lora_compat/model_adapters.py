"""Adapters of whole models, as data, and how their tensors are laid out over the model's LoRA layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.errors import AdapterFormatError, UnknownModulesError
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


@dataclass(slots=True)
class AdapterLayout:
    """Knows which LoRA layer takes which checkpoint module.

    ``names`` maps every name of a LoRA layer to the one it goes by, so an adapter may use any of them.
    """

    names: Mapping[str, str]
    packed: PackedModules
    _taken: dict[str, tuple[str, int | None]] = field(init=False)

    def __post_init__(self) -> None:
        self._taken = {
            child: (name, index)
            for alias, name in self.names.items()
            for index, child in enumerate(self.packed.members(alias))
        }
        self._taken |= {alias: (name, None) for alias, name in self.names.items() if alias not in self._taken}

    @property
    def known(self) -> list[str]:
        """The names an adapter may use."""
        return sorted(self._taken)

    def by_layer(self, adapter: Adapter) -> dict[str, LayerAdapter]:
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
        parts: dict[str, dict[int | None, str]] = {}
        for checkpoint_name in adapter.modules:
            name, index = self._taken[checkpoint_name]
            twice = parts.setdefault(name, {})
            if index in twice or (twice and None in (index, *twice)):
                other = next(iter(twice.values()))
                raise AdapterFormatError(adapter.source, f"{checkpoint_name!r} and {other!r} are the same weights")
            twice[index] = checkpoint_name
        return {name: self._laid_out(name, adapter, found) for name, found in parts.items()}

    def _laid_out(self, name: str, adapter: Adapter, found: Mapping[int | None, str]) -> LayerAdapter:
        if None in found:
            whole = adapter.modules[found[None]]
            return LayerAdapter((whole.part,), whole.scaling)
        count = len(self.packed.members(name))
        return one_scaling([adapter.modules[found[i]] if i in found else None for i in range(count)])


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
