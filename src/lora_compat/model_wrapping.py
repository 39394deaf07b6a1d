"""Wrapping the layers of a whole model: what the targets name, everything or nothing (WRAP-5, WRAP-6)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from lora_compat.adapters import LoRAConfig
from lora_compat.errors import (
    TargetModuleError,
    UnknownTargetError,
    UnsupportedLayerError,
    WrappedOtherwiseError,
)
from lora_compat.lora_layers import LoRALayer, carries_lora, lora_layer
from lora_compat.model_tree import Site, sites
from lora_compat.targets import TargetModules


class UnsupportedLayerWarning(UserWarning):
    """A layer of a supported family that could not be wrapped and was left as it is."""


@dataclass(frozen=True, slots=True)
class WrappedModel:
    """The LoRA layers of a model by the first name each has, and that name by every name it has."""

    layers: Mapping[str, LoRALayer]
    names: Mapping[str, str]


def wrap_model(model: nn.Module, config: LoRAConfig, targets: TargetModules) -> WrappedModel:
    """Replaces every layer of ``model`` that ``targets`` names: linear layers, embeddings, LM heads and experts.

    Nothing is replaced before everything is known to be wrappable. A module under several names gets one wrapper,
    under all of them, if any of the names is targeted. Modules that hold layers are not layers, whatever their name.

    Raises:
        UnknownTargetError: a target names no layer.
        TargetModuleError: a target names a module that cannot be wrapped.
        WrappedOtherwiseError: the model was wrapped before under another config.
    """
    everything = sites(model)
    wrapped = [
        (site, layer)
        for site in everything
        if any(name in targets for name in site.names) and (layer := _wrapped(site, config, targets)) is not None
    ]
    _require_known(everything, targets)
    for site, layer in wrapped:
        site.replace(cast(nn.Module, layer))
    return WrappedModel(
        {site.names[0]: layer for site, layer in wrapped},
        {name: site.names[0] for site, _ in wrapped for name in site.names},
    )


def _wrapped(site: Site, config: LoRAConfig, targets: TargetModules) -> LoRALayer | None:
    """The LoRA layer for one module that is targeted; None for what is left alone."""
    name = site.names[0]
    if not carries_lora(site.module) and (site.holds_modules or targets.names is None):
        return None
    try:
        return _as_before(lora_layer(site.module, config, name=name), config, name)
    except UnsupportedLayerError as error:
        if targets.names is not None:
            raise TargetModuleError(name, site.module, targets.names, error.reason) from error
        warnings.warn(UnsupportedLayerWarning(f"{name}: {error}; it is served without LoRA"), stacklevel=4)
        return None


def _as_before(layer: LoRALayer, config: LoRAConfig, name: str) -> LoRALayer:
    """``layer``, which may have been wrapped before; it must offer what ``config`` asks for."""
    has = (layer.max_loras, layer.max_rank)
    wants = (config.max_loras, config.max_lora_rank)
    if has != wants:
        raise WrappedOtherwiseError(name, f"(max_loras, max_lora_rank)={has}", wants)
    return layer


def _require_known(everything: list[Site], targets: TargetModules) -> None:
    """Every target names at least one layer ; containers do not count."""
    for target in targets.names or ():
        alone = TargetModules([target], targets.packed)
        named = [site for site in everything if any(name in alone for name in site.names)]
        if not any(carries_lora(site.module) for site in named):
            layers = [site.names[0] for site in everything if carries_lora(site.module)]
            raise UnknownTargetError(target, layers, [site.names[0] for site in named])
