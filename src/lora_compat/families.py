"""The registry that says which family a layer belongs to, however deep its class derives."""

from __future__ import annotations

import sys
from collections.abc import Callable

from torch import nn

from lora_compat.errors import UnsupportedLayerError
from lora_compat.family import Family
from lora_compat.parallel import TensorParallelGroup

__all__ = ["Family", "FamilyRegistry", "GroupOf", "family_of", "registry"]

GroupOf = Callable[[nn.Module], TensorParallelGroup]


class FamilyRegistry:
    """Maps linear base classes to families; a subclass inherits its nearest registered ancestor (WRAP-1, WRAP-3).

    The nearest ancestor in the method resolution order decides, so the order of registration never matters.
    """

    def __init__(self) -> None:
        self._entries: dict[type[nn.Module], tuple[Family, GroupOf]] = {}
        self._waiting: dict[str, Callable[[FamilyRegistry], None]] = {}

    def register(self, base: type[nn.Module], family: Family, group_of: GroupOf) -> None:
        """Declares that ``base`` and its subclasses are layers of ``family``, sharded over ``group_of(layer)``."""
        self._entries[base] = (family, group_of)

    def register_once_imported(self, module: str, register: Callable[[FamilyRegistry], None]) -> None:
        """Has ``register`` called before the first look-up that comes after somebody imported ``module``."""
        self._waiting[module] = register

    def lookup(self, cls: type[nn.Module]) -> tuple[type[nn.Module], Family, GroupOf] | None:
        """The nearest registered ancestor of ``cls`` with its family and group, or None."""
        self._register_what_is_imported()
        for ancestor in cls.__mro__:
            if ancestor in self._entries:
                return (ancestor, *self._entries[ancestor])
        return None

    def require(self, layer: nn.Module) -> tuple[type[nn.Module], Family, GroupOf]:
        """Like `lookup`, for a layer that must have a family.

        Raises:
            UnsupportedLayerError: no ancestor of its class is registered.
        """
        found = self.lookup(type(layer))
        if found is None:
            known = ", ".join(sorted({base.__name__ for base in self._entries}))
            raise UnsupportedLayerError(layer, f"it derives from none of {known}")
        return found

    def families_in_any_order(self, cls: type[nn.Module]) -> set[Family]:
        """The families that ``cls`` would be given had the bases been registered in another order (WRAP-3)."""
        self.lookup(cls)
        bases = list(self._entries)
        found = set()
        for start in range(len(bases)):
            for order in (bases[start:] + bases[:start], (bases[start:] + bases[:start])[::-1]):
                other = type(self)()
                for base in order:
                    other.register(base, *self._entries[base])
                entry = other.lookup(cls)
                if entry is not None:
                    found.add(entry[1])
        return found

    def _register_what_is_imported(self) -> None:
        for module in [one for one in self._waiting if one in sys.modules]:
            self._waiting.pop(module)(self)


registry = FamilyRegistry()


def family_of(layer: nn.Module) -> Family | None:
    """The family of ``layer``, or None where it belongs to none."""
    found = registry.lookup(type(layer))
    return found[1] if found else None
