"""Models as trees of named modules: layers of every family, modules that are none, and modules with two names."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.cases import LayerSpec
from strategies.codec import Named, Spec
from strategies.subclasses import SubclassSpec


class ModuleKind(Named):
    """What a module of a tree is."""

    LINEAR = "linear"  # a layer of a family
    NN_LINEAR = "nn_linear"  # torch's, which no family knows
    EMBEDDING = "embedding"
    NORM = "norm"
    LOOKALIKE = "lookalike"  # has a linear layer's attributes, but derives from none
    HOLDER = "holder"  # holds modules, is none itself, and is named like a layer of the model
    HOLLOW = "hollow"  # a layer of a family that has neither a weight nor a quant method


FOREIGN = (ModuleKind.NN_LINEAR, ModuleKind.EMBEDDING, ModuleKind.NORM, ModuleKind.LOOKALIKE, ModuleKind.HOLDER)


@dataclass(frozen=True, slots=True, repr=False)
class ModuleSpec(Spec):
    """One module: its name, what it is, and a second name if it has one.

    ``packed`` is as in `Case`; ``children`` has the last parts of the names of the checkpoint modules it stands for,
    one for each entry. With ``alias_first`` a walk of the tree meets the second name first.
    """

    name: str = "layers.0.mlp.gate"
    kind: ModuleKind = ModuleKind.LINEAR
    layer: LayerSpec = LayerSpec()  # noqa: RUF009 - frozen
    subclass: SubclassSpec = SubclassSpec()  # noqa: RUF009 - frozen
    packed: tuple[int, ...] = ()
    children: tuple[str, ...] = ()
    alias: str = ""
    alias_first: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its names, in the order of a walk."""
        both = (self.name, self.alias) if self.alias else (self.name,)
        return both[::-1] if self.alias_first else both

    def checkpoint_names(self, *, by_alias: bool = False) -> tuple[str, ...]:
        """The names that adapters give its parts: its children's, or its own."""
        prefix, dot, last = (self.alias if by_alias and self.alias else self.name).rpartition(".")
        return tuple(prefix + dot + child for child in self.children or (last,))


@dataclass(frozen=True, slots=True, repr=False)
class ModelSpec(Spec):
    """A tree of modules on ``tp_size`` ranks; modules under ``tower`` have their tokens mapped on their own."""

    modules: tuple[ModuleSpec, ...] = (ModuleSpec(),)
    tp_size: int = 1
    tower: str = ""

    @property
    def linears(self) -> tuple[ModuleSpec, ...]:
        """The modules that are layers of a family."""
        return tuple(module for module in self.modules if module.kind is ModuleKind.LINEAR)

    @property
    def packing(self) -> dict[str, tuple[str, ...]]:
        """The packed-modules mapping: last part of a name → last parts of what it stands for."""
        return {
            name.rpartition(".")[2]: module.children
            for module in self.linears
            for name in module.names
            if module.children
        }
