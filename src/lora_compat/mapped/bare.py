"""`BareWeight`: adapters of a parameter that no layer of its own multiplies with, as some routers are."""

from __future__ import annotations

from typing import Any

from torch import nn

from lora_compat.adapters import LoRAConfig
from lora_compat.delta import LoRADelta
from lora_compat.errors import MatmulBypassedError, UnsupportedLayerError
from lora_compat.parallel import SINGLE
from lora_compat.sharding import ShardPlan
from lora_compat.slot_layer import SlotLayer
from lora_compat.slots import SlotBuffers
from lora_compat.weights import know_lora


class BareWeight(SlotLayer):
    """A matrix that knows its LoRA wherever the model multiplies with it; see `lora_compat.weights`.

    A forward of its module that uses it in a way that is not seen here, as kernels do that take its address, is
    refused.
    """

    def __init__(self, module: nn.Module, attribute: str, config: LoRAConfig, *, name: str, plan: ShardPlan) -> None:
        """Raises `UnsupportedLayerError` for a parameter of a class that does more than hold numbers."""
        parameter = module._parameters[attribute]
        assert parameter is not None
        dtype, device = config.lora_dtype or parameter.dtype, parameter.device
        self.slots = SlotBuffers(plan, config, dtype=dtype, device=device, module=name)
        self.delta = LoRADelta(self.slots, SINGLE, name)
        if not know_lora(parameter, self.delta):
            raise UnsupportedLayerError(module, f"its {attribute} is a {type(parameter).__qualname__}", name=name)
        self._served: list[int] = []
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: Any) -> None:
        self._served.append(self.delta.served)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        served = self._served.pop()
        if self.delta.batch.active and self.delta.served == served:
            raise MatmulBypassedError(
                self.delta.layer, f"the forward of {type(module).__qualname__} did not multiply with it"
            )
