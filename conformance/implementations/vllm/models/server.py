"""`ModelServer` of vLLM: `get_model`, `LRUCacheWorkerLoRAManager` and `LoRARequest`, as its worker calls them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import (
    BaseModelError,
    ModelServer,
    ModelSettings,
    NoLoRASupport,
    Parts,
    ServedModel,
)
from conformance.implementations.vllm.groups import ranked
from conformance.implementations.vllm.models import engine
from conformance.implementations.vllm.models.readings import Reader

_DUMMY = 1_000_000
_NO_LORA = ("does not support LoRA", "LoRA is not supported", "not supported for LoRA")


class VllmModels(ModelServer):
    """Loads what `vllm serve` would."""

    def options(self, directory: Path) -> tuple[str, ...]:
        cls = engine.model_class(directory)
        declared = {"enable_tower_connector_lora": "supports_tower_connector_lora"}
        return tuple(option for option, flag in declared.items() if getattr(cls, flag, False))

    def load(self, directory: Path, settings: ModelSettings, group: RankGroup) -> ServedModel:
        engine.groups()
        with ranked(group), engine.quick_loading(), engine.without_amx():
            try:
                return VllmModel(directory, settings, group)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                raise (NoLoRASupport if any(one in said for one in _NO_LORA) else BaseModelError)(said) from error


class VllmModel(ServedModel):
    """One rank's model and worker manager."""

    def __init__(self, directory: Path, settings: ModelSettings, group: RankGroup) -> None:
        self._group = group
        self._settings = settings
        engine.model_class(directory)
        self._config = engine.engine_config(directory, settings, group.size)
        self.model = self._within(importlib.import_module("vllm.model_executor.model_loader").get_model)
        self._worker: Any = None
        self._reader = Reader(self.model, self._config)

    def _within(self, build: Callable[..., Any]) -> Any:
        with importlib.import_module("vllm.config").set_current_vllm_config(self._config):
            return build(vllm_config=self._config)

    def serve_adapters(self) -> None:
        workers = importlib.import_module("vllm.lora.worker_manager")

        def build(vllm_config: Any) -> Any:
            worker = workers.LRUCacheWorkerLoRAManager(
                vllm_config, engine.device(), getattr(self.model, "embedding_modules", {})
            )
            self.model = worker.create_lora_manager(self.model, vllm_config)
            return worker

        with ranked(self._group):
            self._worker = self._within(build)
        self._reader.adapted()

    def add(self, number: int, directory: Path) -> None:
        with ranked(self._group):
            self._worker.add_adapter(self._request(number, directory))

    def warm_up(self) -> None:
        with ranked(self._group):
            rank = self._worker.get_dummy_lora_warmup_rank(min(8, self._settings.max_rank))
            self._worker.add_dummy_lora(self._request(_DUMMY, Path("dummy")), rank)
            self._worker.add_adapter(self._request(_DUMMY, Path("dummy")))
            self._worker.remove_adapter(_DUMMY)

    def remove(self, number: int) -> None:
        with ranked(self._group):
            self._worker.remove_adapter(number)

    def names(self) -> tuple[str, ...]:
        return self._reader.names

    def read(self, number: int | None) -> dict[str, Parts]:
        with ranked(self._group), torch.no_grad():
            return {name: self._reader.read(name, self._map(number), self._group) for name in self._reader.names}

    def _map(self, number: int | None) -> Callable[[int], None]:
        """Has as many tokens as asked for served by the adapter."""
        mapping = importlib.import_module("vllm.lora.layers").LoRAMapping

        def tokens(count: int) -> None:
            if self._worker is not None:
                ids = (number or 0,) * count
                self._worker.set_active_adapters(set(), mapping(ids, ids, is_prefill=False))

        return tokens

    def _request(self, number: int, directory: Path) -> Any:
        request = importlib.import_module("vllm.lora.request").LoRARequest
        return request(f"adapter {number}", number, str(directory), is_3d_lora_weight=self._settings.fused_experts)
