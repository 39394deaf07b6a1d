"""An implementation that adds its delta to what the forward returns, as some engines do: right for plain classes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from conformance.implementations.protocol import Deployment
from conformance.implementations.reference import ReferenceImplementation
from lora_compat import LoRAConfig
from lora_compat.delta import NO_TOKENS
from lora_compat.wrapper import LoRALinear


class AdditiveLinear(LoRALinear):
    """Adds after the forward, so that a forward that scales does not scale the delta."""

    def forward(self, input_: Tensor, *args: Any) -> Any:
        batch, self.delta.batch = self.delta.batch, NO_TOKENS
        result = self.base_layer(input_, *args)
        self.delta.batch = batch
        if not batch.active:
            return result
        output, *rest = result if isinstance(result, tuple) else (result,)
        output = self.delta.add_to(output.clone(), input_)
        return (output, *rest) if isinstance(result, tuple) else output


class Additive(ReferenceImplementation):
    """The reference, but for where its delta goes."""

    name = "additive"

    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module:
        config = LoRAConfig(
            max_loras=deployment.max_loras,
            max_lora_rank=deployment.max_lora_rank,
            fully_sharded_loras=deployment.fully_sharded,
        )
        return layer if isinstance(layer, AdditiveLinear) else AdditiveLinear(layer, config)
