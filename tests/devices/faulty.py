"""Implementations with one fault each, on the emulated GPU."""

from __future__ import annotations

from torch import Tensor, nn

from conformance.implementations.reference import ReferenceImplementation
from lora_compat.adapters import LayerAdapter
from tests.devices import emulated_gpu


class LosesItsGpu(ReferenceImplementation):
    """Reads where it must not when it is asked for a dense weight."""

    name = "loses-its-gpu"

    def dense_weight(self, module: nn.Module) -> Tensor:
        emulated_gpu.lose()
        return super().dense_weight(module).cpu()


class KeepsAOnTheCpu(ReferenceImplementation):
    """Forgets one buffer when it allocates."""

    name = "keeps-a-on-the-cpu"

    def load(self, wrapped: nn.Module, slot: int, adapter: LayerAdapter) -> None:
        super().load(wrapped, slot, adapter)
        wrapped.slots.lora_a = wrapped.slots.lora_a.cpu()
