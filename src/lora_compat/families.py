"""Linear families, and the registry that says which family a layer belongs to, however deep its class derives."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable

from torch import nn

from lora_compat.errors import UnsupportedLayerError
from lora_compat.parallel import TensorParallelGroup


class Family(enum.Enum):
    """The five linear families of vLLM, by what tensor parallelism does to their weight."""

    REPLICATED = "replicated"
    COLUMN = "column"
    MERGED_COLUMN = "merged_column"
    QKV = "qkv"
    ROW = "row"

    # Members are singletons: their identity is a hash, and one that costs no call of Python.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Family.{self.name}"

    @property
    def shards_output(self) -> bool:
        """Whether each rank owns a part of the output rows."""
        return self in (Family.COLUMN, Family.MERGED_COLUMN, Family.QKV)

    @property
    def packed(self) -> bool:
        """Whether several checkpoint modules are packed into the one layer."""
        return self in (Family.MERGED_COLUMN, Family.QKV)


GroupOf = Callable[[nn.Module], TensorParallelGroup]


class FamilyRegistry:
    """Maps linear base classes to families; a subclass inherits its nearest registered ancestor (WRAP-1, WRAP-3).

    The nearest ancestor in the method resolution order decides, so the order of registration never matters.
    """

    def __init__(self) -> None:
        self._entries: dict[type[nn.Module], tuple[Family, GroupOf]] = {}
        self._vllm_seen = False

    def register(self, base: type[nn.Module], family: Family, group_of: GroupOf) -> None:
        """Declares that ``base`` and its subclasses are layers of ``family``, sharded over ``group_of(layer)``."""
        self._entries[base] = (family, group_of)

    def lookup(self, cls: type[nn.Module]) -> tuple[type[nn.Module], Family, GroupOf] | None:
        """The nearest registered ancestor of ``cls`` with its family and group, or None."""
        self._register_vllm_when_loaded()
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
                other._vllm_seen = True
                for base in order:
                    other.register(base, *self._entries[base])
                entry = other.lookup(cls)
                if entry is not None:
                    found.add(entry[1])
        return found

    def _register_vllm_when_loaded(self) -> None:
        if not self._vllm_seen and "vllm.model_executor.layers.linear" in sys.modules:
            self._vllm_seen = True
            from lora_compat.vllm_layers import register_vllm_layers

            register_vllm_layers(self)


registry = FamilyRegistry()


def family_of(layer: nn.Module) -> Family | None:
    """The family of ``layer``, or None where it belongs to none."""
    found = registry.lookup(type(layer))
    return found[1] if found else None
