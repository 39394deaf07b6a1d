"""Implementations with one fault each, for the tests of the framework."""

from __future__ import annotations

import os

import torch.distributed as dist
from torch import Tensor, nn

from conformance.implementations.protocol import Deployment
from conformance.implementations.reference import ReferenceImplementation
from lora_compat import LoRALinear
from lora_compat.adapters import LayerAdapter


class SkipsACollective(ReferenceImplementation):
    """The last rank does not take part in the collectives of sharded adapters."""

    name = "skips-a-collective"

    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module | None:
        wrapped = super().wrap(layer, deployment)
        assert isinstance(wrapped, LoRALinear)
        plan, delta = wrapped.plan, wrapped.delta
        if plan.fully_sharded and plan.tp_rank == plan.tp_size - 1:

            def alone(hidden: Tensor) -> Tensor:
                return hidden.repeat(1, 1, plan.rank_shards)

            delta._collect = alone  # type: ignore[method-assign]
        return wrapped


class KillsItsWorker(ReferenceImplementation):
    """Takes its process down when it is asked for a dense weight, as a fault of a GPU does."""

    name = "kills-its-worker"

    def dense_weight(self, module: nn.Module) -> Tensor:
        os._exit(1)


class DropsOneAdapterOfMany(ReferenceImplementation):
    """Does not load adapters of one shape that is seldom drawn."""

    name = "drops-one-adapter-of-many"

    def load(self, wrapped: nn.Module, slot: int, adapter: LayerAdapter) -> None:
        if any(part is not None and part.lora_a.shape == (3, 4) for part in adapter.parts):
            return
        super().load(wrapped, slot, adapter)


class LosesARank(ReferenceImplementation):
    """Takes the process of rank 1 down when it is asked for a dense weight."""

    name = "loses-a-rank"

    def dense_weight(self, module: nn.Module) -> Tensor:
        if dist.is_initialized() and dist.get_rank() == 1:
            os._exit(3)
        return super().dense_weight(module)


class LacksMethods:
    """Has a name and nothing else."""

    name = "lacks-methods"


class DropsTheBias(ReferenceImplementation):
    """Serves base layers without their bias."""

    name = "drops-the-bias"

    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module | None:
        layer.bias = None
        return super().wrap(layer, deployment)
