"""A model with LoRA layers, and how adapters are laid out over them: as declared, or by a checkpoint map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lora_compat.adapters import LoRAConfig
from lora_compat.checkpoint_map import CheckpointMap
from lora_compat.lora_layers import LoRALayer, experts_in
from lora_compat.mapped import MappedLayout, require_agreeing, wrap_mapped
from lora_compat.model_adapters import Adapter, AdapterLayout, LayerAdapters
from lora_compat.model_wrapping import wrap_model
from lora_compat.parallel import current_group
from lora_compat.peft_loading import load_adapter
from lora_compat.targets import PackedModules, TargetModules


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The LoRA layers by name, and what makes an adapter, in memory or in a PEFT directory, into one for each."""

    layers: Mapping[str, LoRALayer]
    lay_out: Callable[[Adapter | str | Path], LayerAdapters]


def by_declaration(
    model: nn.Module, config: LoRAConfig, targets: Sequence[str] | None, packed: PackedModules
) -> ServedModel:
    """Wraps by names and packed-modules mapping; see `wrap_model`."""
    wrapped = wrap_model(model, config, TargetModules(targets, packed))
    layout = AdapterLayout(wrapped.names, packed, experts_in(wrapped.layers))
    return ServedModel(
        wrapped.layers, lambda given: layout.by_layer(given if isinstance(given, Adapter) else load_adapter(given))
    )


def by_map(
    model: nn.Module,
    config: LoRAConfig,
    targets: Sequence[str] | None,
    packed: PackedModules,
    mine: CheckpointMap,
    ranks: Sequence[CheckpointMap],
) -> ServedModel:
    """Wraps by this rank's map and those of all ranks of the current group; see `wrap_mapped`.

    Raises:
        ValueError: this rank's map is none of them.
        PackedModulesError: ``packed`` contradicts the map of a rank.
    """
    if ranks and not any(one is mine for one in ranks):
        raise ValueError("ranks are the maps of all ranks, but this rank's checkpoint map is none of them")
    maps = ranks or (mine,)
    for one in maps:  # of which some may hold nothing but padding of a layer
        require_agreeing(packed, one)
    wrapped = wrap_mapped(model, config, targets, [mine, *(one for one in maps if one is not mine)])
    return ServedModel(wrapped.layers, MappedLayout(wrapped, config, mine, maps, current_group()).of)
