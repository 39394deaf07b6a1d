"""Which modules of a model carry LoRA: target names, packed parents and children (TARGET-1, TARGET-2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PackedModules:
    """Which checkpoint modules a packed layer stands for, by the last part of the names.

    ``{"qkv_proj": ("q_proj", "k_proj", "v_proj")}`` says that ``….qkv_proj`` takes the adapters of its three children.
    For a mixture of experts it says what gate, up and down are called: ``{"experts": ("w1", "w3", "w2")}``.
    """

    children: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def members(self, name: str) -> tuple[str, ...]:
        """The full names of the checkpoint modules in packed module ``name``; none where it packs nothing."""
        prefix, last = split_name(name)
        return tuple(prefix + child for child in self.children.get(last, ()))

    def projections(self, name: str) -> tuple[str, str, str]:
        """The last parts of the names of gate, up and down of each expert of mixture ``name``."""
        gate, up, down = self.children.get(split_name(name)[1], ("gate_proj", "up_proj", "down_proj"))
        return gate, up, down

    def parents(self, name: str) -> tuple[str, ...]:
        """The full names that packed modules would have which take checkpoint module ``name``."""
        prefix, last = split_name(name)
        return tuple(prefix + parent for parent, children in self.children.items() if last in children)


@dataclass(frozen=True, slots=True)
class TargetModules:
    """The deployment's ``target_modules``: None for every supported layer, an empty sequence for none.

    A target is a whole name or its last parts: ``o_proj`` and ``attn.o_proj`` both name ``layers.0.attn.o_proj``,
    ``proj`` does not. A packed layer is named by any of its children too, a child by the layer it is packed into.
    """

    names: Sequence[str] | None = None
    packed: PackedModules = PackedModules()

    def __contains__(self, module: str) -> bool:
        return self.names is None or any(True for _ in self.naming(module))

    def naming(self, module: str) -> Iterator[str]:
        """The targets that name ``module``."""
        spoken = (module, *self.packed.members(module), *self.packed.parents(module))
        for target in self.names or ():
            if any(name == target or name.endswith("." + target) for name in spoken):
                yield target


def split_name(name: str) -> tuple[str, str]:
    """``"layers.0.o_proj"`` as ``("layers.0.", "o_proj")``."""
    prefix, dot, last = name.rpartition(".")
    return prefix + dot, last
