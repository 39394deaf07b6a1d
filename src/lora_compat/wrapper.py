"""`LoRALinear`: the one LoRA layer, for any subclass of any linear family."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from lora_compat.adapters import LoRAConfig
from lora_compat.delta import LoRADelta
from lora_compat.errors import MatmulBypassedError, UnsupportedLayerError
from lora_compat.families import registry
from lora_compat.family import Family
from lora_compat.interception import attach, delta_of, intercept
from lora_compat.parallel import SINGLE
from lora_compat.quantization.protocol import WEIGHT_NAMES, stored_weight
from lora_compat.sharding import ShardPlan
from lora_compat.slot_layer import SlotLayer
from lora_compat.slots import SlotBuffers
from lora_compat.token_identity import TokenInput, Trail, anonymous, identified
from lora_compat.unwrap import chain_of
from lora_compat.weights import know_lora


class LoRALinear(SlotLayer, nn.Module):
    """A linear layer with adapters: the base layer's own forward, and LoRA added where that multiplies.

    The contribution enters at ``quant_method.apply``, before the subclass's own scaling, casting, splitting or
    reducing, so it passes through whatever the class does to its product. A forward that multiplies with its weight
    directly is served by the weight itself (`lora_compat.weights`); one that does neither is refused. Attributes
    not found here, among them all that kernels read, are the base layer's, for reading and for setting.
    """

    base_layer: nn.Module

    def __init__(
        self, base_layer: nn.Module, config: LoRAConfig, *, name: str = "", plan: ShardPlan | None = None
    ) -> None:
        """Wraps ``base_layer``; `wrap_layer` is the checked way in.

        Args:
            plan: what this rank owns of the adapters, for a layer of any kind; read off a layer of a family otherwise.

        Raises:
            UnsupportedLayerError: the layer has no family, or neither a quant method nor a weight.
        """
        super().__init__()
        found = registry.lookup(type(base_layer)) if plan else registry.require(base_layer)
        plan = plan or ShardPlan.of(base_layer, fully_sharded=config.fully_sharded_loras)
        self.base_layer = base_layer
        self.family: Family = plan.family
        self.own_forward = type(base_layer).forward is not (found[0] if found else nn.Linear).forward
        dtype, device = _dtype_and_device(base_layer)
        self.slots = SlotBuffers(
            plan,
            config,
            dtype=config.lora_dtype or dtype,
            device=device,
            module=name or type(base_layer).__qualname__,
        )
        group = found[2](base_layer) if found else SINGLE
        self.delta = LoRADelta(self.slots, group, type(base_layer).__qualname__)
        self.delta.wrapper = weakref.ref(self)
        attach(base_layer, self.delta)
        weight = stored_weight(base_layer)
        knows = isinstance(weight, nn.Parameter) and know_lora(weight, self.delta)
        if not intercept(base_layer) and not knows:
            raise UnsupportedLayerError(base_layer, "it has neither a quant method nor a dense weight to intercept")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer's forward, arguments and return type; the batch's adapters are in its product.

        Raises:
            MatmulBypassedError: adapters are active and the forward issued no matmul they could be added to.
        """
        intercept(self.base_layer)
        delta, served = self.delta, self.delta.served
        followed = self.own_forward and delta.batch.active
        result = self._followed(*args, **kwargs) if followed else self.base_layer(*args, **kwargs)
        if delta.batch.active and delta.served == served:
            raise MatmulBypassedError(delta.layer, "its forward used neither quant_method.apply nor its weight")
        return result

    def _followed(self, *args: Any, **kwargs: Any) -> Any:
        """A forward of the class's own, whose input says of each row which token it is."""
        delta, tokens = self.delta, len(self.delta.batch)
        trail = Trail()
        given = [identified(one, tokens, trail) for one in args]
        named = {name: identified(one, tokens, trail) for name, one in kwargs.items()}
        delta.following = any(isinstance(one, TokenInput) for one in (*given, *named.values()))
        try:
            return anonymous(self.base_layer(*given, **named))
        finally:
            delta.following = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            base_layer = self.__dict__.get("_modules", {}).get("base_layer")
            if base_layer is None:
                raise
            return getattr(base_layer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        base_layer = self.__dict__.get("_modules", {}).get("base_layer")
        if base_layer is None or name in self.__dict__ or name in self._modules or not hasattr(base_layer, name):
            super().__setattr__(name, value)
        else:
            setattr(base_layer, name, value)


def wrap_layer(layer: nn.Module, config: LoRAConfig, *, name: str = "") -> LoRALinear:
    """The LoRA layer for ``layer``; wrapping what is wrapped already gives the wrapper it has (WRAP-5).

    Args:
        layer: any subclass of a registered linear layer, built and loaded.
        name: the module's name in its model, for messages.

    Raises:
        UnsupportedLayerError: the layer belongs to no family, or has nothing to intercept.
    """
    for module in chain_of(layer):
        if isinstance(module, LoRALinear):
            return module
    delta = delta_of(layer)
    wrapper = delta.wrapper() if delta else None
    return wrapper if isinstance(wrapper, LoRALinear) else LoRALinear(layer, config, name=name)


def _dtype_and_device(layer: nn.Module) -> tuple[torch.dtype, torch.device]:
    """The dtype of activations and the device of the weight, wherever the weight lives."""
    tensor = stored_weight(layer)
    if tensor is None:
        raise UnsupportedLayerError(layer, f"it has none of {', '.join(map(repr, WEIGHT_NAMES))}")
    return getattr(layer, "params_dtype", None) or tensor.dtype, tensor.device
