"""`lora_compat.LoRAManager`, as the suite drives it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from conformance.implementations.model_protocol import InjectedFault, ModelDeployment, ModelManager
from lora_compat import Adapter, LoRAConfig, LoRAManager, PackedModules, UnsupportedLayerWarning


class ReferenceManager(ModelManager):
    """One rank's manager."""

    def __init__(self, model: nn.Module, deployment: ModelDeployment) -> None:
        config = LoRAConfig(
            max_loras=deployment.max_loras,
            max_lora_rank=deployment.max_lora_rank,
            fully_sharded_loras=deployment.fully_sharded,
        )
        self._tower = deployment.tower
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            self.manager = LoRAManager(
                model,
                config,
                target_modules=deployment.targets,
                packed_modules=PackedModules(deployment.packed),
                max_adapters=deployment.max_adapters,
                towers=(deployment.tower,) if deployment.tower else (),
                evict=deployment.evict,
            )
        self._warned = [str(w.message).partition(":")[0] for w in given if w.category is UnsupportedLayerWarning]

    def wrapped(self, name: str) -> bool:
        found: object = self.manager.model.get_submodule(name)
        return any(found is layer for layer in self.manager.layers.values())

    def left_alone(self) -> Collection[str]:
        return self._warned

    def add(self, adapter_id: int, adapter: Adapter) -> bool:
        return self.manager.add(adapter_id, adapter)

    def add_directory(self, adapter_id: int, path: Path) -> bool:
        return self.manager.add(adapter_id, path)

    def activate(self, adapter_id: int) -> bool:
        return self.manager.activate(adapter_id)

    def deactivate(self, adapter_id: int) -> bool:
        return self.manager.deactivate(adapter_id)

    def remove(self, adapter_id: int) -> bool:
        return self.manager.remove(adapter_id)

    def pin(self, adapter_id: int) -> None:
        self.manager.pin(adapter_id)

    def replace(self, adapter_id: int, adapter: Adapter | Path) -> None:
        self.manager.replace(adapter_id, adapter)

    def map_tokens(self, adapter_ids: Sequence[int | None], *, tower: bool = False) -> None:
        self.manager.map_tokens(adapter_ids, tower=self._tower if tower else "")

    def registered(self) -> frozenset[int]:
        return frozenset(self.manager.registered)

    def active(self) -> frozenset[int]:
        return frozenset(self.manager.active)

    @contextmanager
    def failing_at(self, name: str) -> Iterator[None]:
        slots: Any = self.manager.model.get_submodule(name).slots

        def load(*args: object) -> None:
            raise InjectedFault(f"the copy into {name} failed")

        slots.load = load
        try:
            yield
        finally:
            del slots.load

    def warmed_up(self, tokens: int, default: int) -> AbstractContextManager[int]:
        return self.manager.warmed_up(tokens, default=default)
