"""The lists of a configuration that have an item for each layer, cut to a few layers with every kind among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from conformance.subjects.models.sizes import LAYERS

# How many layers come before those with experts.
_FIRST_DENSE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_DENSE = ("mlp_only_layers",)  # which layers have none


def kept_layers(config: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """The numbers of the layers that are kept: every kind of layer at least ``count`` times, where it is as often."""
    total = number_of_layers(config)
    firsts = ([layer < config[name] for layer in range(total)] for name in _first_dense(config))
    dense = [[layer in config[name] for layer in range(total)] for name in _DENSE if config.get(name)]
    lists = (*_per_layer(config).values(), *firsts, *dense)
    have: Counter[tuple[int, str]] = Counter()
    kept: list[int] = []
    for layer in range(total):
        kinds = [(place, repr(items[layer])) for place, items in enumerate(lists)]
        if len(kept) < count or any(have[kind] < count for kind in kinds):
            kept.append(layer)
            have.update(kinds)
    return tuple(kept)


def with_layers(config: Mapping[str, Any], kept: tuple[int, ...]) -> dict[str, Any]:
    """The same configuration of these layers alone."""
    total, cut = number_of_layers(config), dict(config)
    places = {layer: place for place, layer in enumerate(kept)}
    per_layer = _per_layer(config)
    for name, value in config.items():
        if name in per_layer:
            cut[name] = [value[layer] for layer in kept]
        elif name in LAYERS and value == total:
            cut[name] = len(kept)
        elif _numbers_layers(name, value, total):
            cut[name] = [places[layer] for layer in value if layer in places]
        elif isinstance(value, dict) and value and all(key.isdigit() for key in value):
            cut[name] = {str(places[int(layer)]): one for layer, one in value.items() if int(layer) in places}
    cut.update({name: sum(layer < config[name] for layer in kept) for name in _first_dense(config)})
    return cut


def _first_dense(config: Mapping[str, Any]) -> list[str]:
    return [name for name in _FIRST_DENSE if isinstance(config.get(name), int)]


def number_of_layers(config: Mapping[str, Any]) -> int:
    """How many layers a configuration says; 0 where it says nothing of layers."""
    return next((config[name] for name in LAYERS if isinstance(config.get(name), int)), 0)


def _per_layer(config: Mapping[str, Any]) -> dict[str, list[Any]]:
    total = number_of_layers(config)
    return {
        name: value
        for name, value in config.items()
        if isinstance(value, list)
        and len(value) == total > 0
        and ("layer" in name or name.endswith(("types", "type", "pattern", "per_layer", "block_configs")))
        and not _numbers_layers(name, value, total)
    }


def _numbers_layers(name: str, value: Any, total: int) -> bool:
    """Whether a list says which layers something is of."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(one) is int for one in value)
        and ("layer" in name or "idx" in name or "index" in name)
        and len(set(value)) == len(value)
        and value == sorted(value)
        and value[0] >= 0
        and value[-1] < total
    )
