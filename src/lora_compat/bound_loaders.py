"""Which weight loader fills a layer's weight: the one that the weight carries, whatever its class says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from lora_compat.errors import UnsupportedLayerError
from lora_compat.quantization.protocol import stored_weight

# What a class may override to load its weight in its own way; vLLM's layers have both.
LOADERS = ("weight_loader", "weight_loader_v2")
Loader = Callable[..., None]


class LoaderError(UnsupportedLayerError):
    """A class with a weight loader of its own, on whose weight the family's is bound: either may load a checkpoint."""

    def __init__(self, layer: nn.Module, own: str, carried: Any) -> None:
        super().__init__(
            layer,
            f"its class has a {own} of its own, but its weight carries {_function(carried).__qualname__}, so which of "
            "them loads a checkpoint cannot be told (vLLM's constructors bind weight_loader_v2 for most quant "
            f"methods). Bind the one that does, layer.weight.weight_loader = layer.{own}, or override both, or give "
            "the class a method shard_plan(self, *, fully_sharded) that returns its lora_compat.ShardPlan",
        )


def own_loader(layer: nn.Module, base: type[nn.Module]) -> Loader | None:
    """The loader that fills the weight of ``layer``; None where that is the one of its family's class ``base``.

    Raises:
        LoaderError: the weight carries the family's, though the class has one of its own.
    """
    own = [name for name in LOADERS if _function(getattr(layer, name, None)) is not getattr(base, name, None)]
    carried: Loader | None = getattr(stored_weight(layer), "weight_loader", None)
    if carried is None:  # as some quant methods leave it
        found: Loader | None = getattr(layer, own[0]) if own else None
        return found
    if _function(carried) not in [getattr(base, name, None) for name in LOADERS]:
        return carried
    if own:
        raise LoaderError(layer, own[0], carried)
    return None


def _function(loader: Any) -> Any:
    """What ``loader`` calls in the end: vLLM's reloading wraps the loaders it finds."""
    if loader is None:
        return None
    loader = inspect.unwrap(loader)
    return getattr(loader, "__func__", loader)
