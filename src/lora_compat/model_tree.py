"""The modules of a model, each once, with every name it has and every place it hangs in."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from lora_compat.lora_layers import LORA_LAYERS


@dataclass(slots=True, eq=False)
class Site:
    """One module and its names, in the order of a walk; ``places`` are the parents and attributes that hold it."""

    module: nn.Module
    names: list[str] = field(default_factory=list)
    places: list[tuple[nn.Module, str]] = field(default_factory=list)

    @property
    def holds_modules(self) -> bool:
        """Whether it has modules in it, or is a list that may have some."""
        return isinstance(self.module, (nn.ModuleList, nn.ModuleDict, nn.Sequential)) or any(
            True for _ in self.module.children()
        )

    def replace(self, module: nn.Module) -> None:
        """Hangs ``module`` wherever this one hangs, so that all its names lead to the same object (WRAP-5)."""
        for parent, attribute in self.places:
            parent._modules[attribute] = module
        self.module = module


def sites(model: nn.Module) -> list[Site]:
    """Every module below ``model``, in the order it is met first; what is inside a LoRA layer is left out."""
    found: dict[int, Site] = {}
    _walk(model, "", found, frozenset({id(model)}))
    return list(found.values())


def _walk(parent: nn.Module, prefix: str, found: dict[int, Site], above: frozenset[int]) -> None:
    for attribute, child in parent._modules.items():
        if child is None or id(child) in above:
            continue
        site = found.setdefault(id(child), Site(child))
        if prefix + attribute not in site.names:
            site.names.append(prefix + attribute)
        if not any(holder is parent and name == attribute for holder, name in site.places):
            site.places.append((parent, attribute))
        if not isinstance(child, LORA_LAYERS):
            _walk(child, f"{prefix}{attribute}.", found, above | {id(child)})
