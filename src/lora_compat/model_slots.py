"""A slot of a whole model: one slot of every LoRA layer, written in all of them or in none."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lora_compat.lora_layers import LoRALayer
from lora_compat.model_adapters import LayerAdapters


class ModelSlots:
    """Who is in which slot, and the layers' buffers; ``filled`` has for each layer the slots with something for it."""

    def __init__(self, layers: Mapping[str, LoRALayer], count: int) -> None:
        self.layers = layers
        self.holders: list[int | None] = [None] * count
        self.filled: dict[str, set[int]] = {name: set() for name in layers}

    @property
    def free(self) -> list[int]:
        """The slots that nobody is in."""
        return [slot for slot, holder in enumerate(self.holders) if holder is None]

    def check(self, adapter: LayerAdapters) -> None:
        """Whether ``adapter`` would load into any slot.

        Raises:
            AdapterShapeError, AmbiguousPartsError: a tensor does not fit its layer.
        """
        for name, part in adapter.items():
            self.layers[name].check(part)

    def load(self, slot: int, adapter: LayerAdapters) -> None:
        """Writes one slot of every layer; whatever is raised half-way, all of them are as before (M3)."""
        before: list[tuple[LoRALayer, tuple[Tensor, ...]]] = []
        try:
            for name, layer in self.layers.items():
                before.append((layer, layer.saved(slot)))
                if name in adapter:
                    layer.set_lora(slot, adapter[name])
                else:
                    layer.reset_lora(slot)
        except BaseException:
            for layer, content in before:
                layer.restore(slot, content)
            raise
        for name, filled in self.filled.items():
            (filled.add if name in adapter else filled.discard)(slot)

    def reset(self, slot: int) -> None:
        """Empties a slot of every layer."""
        for name, layer in self.layers.items():
            layer.reset_lora(slot)
            self.filled[name].discard(slot)
