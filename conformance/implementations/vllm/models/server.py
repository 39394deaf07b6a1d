"""`ModelServer` of vLLM: `get_model`, `LRUCacheWorkerLoRAManager` and `LoRARequest`, as its worker calls them."""

from __future__ import annotations

import importlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import (
    AdaptersView,
    BaseModelError,
    ModelServer,
    ModelSettings,
    NoLoRASupport,
    Parts,
    ServedModel,
    whose,
)
from conformance.implementations.vllm.cuda import forget_addresses
from conformance.implementations.vllm.models import engine
from conformance.implementations.vllm.models.classes import TRANSFORMERS, class_of, served_by_transformers
from conformance.implementations.vllm.models.hosted import EXPERT_PARALLEL, IN_TURN, VllmHost, loading
from conformance.implementations.vllm.models.rotary_tables import tables
from conformance.implementations.vllm.models.slots import expert_weights, linear_weight, tensors_of
from conformance.implementations.vllm.runtime import runtime

_DUMMY = 1_000_000
NO_TOWERS = 'limit_mm_per_prompt={"image": 0, "video": 0, "audio": 0}'
_NO_LORA = ("does not support LoRA", "LoRA is not supported", "not supported for LoRA")


class VllmModels(ModelServer):
    """Loads what `vllm serve` would."""

    expert_parallel, in_turn, copied_experts = EXPERT_PARALLEL, IN_TURN, engine.COPIED_EXPERTS
    whole_towers, pipelined = "mm_encoder_tp_mode=data", True

    def prepare(self) -> None:
        engine.prepare()

    def options(self, architecture: str) -> tuple[str, ...]:
        cls = class_of(architecture)
        declared = {
            "enable_tower_connector_lora": "supports_tower_connector_lora",
            "enable_mixed_moe_lora_format": "is_3d_moe_weight",  # who has not takes stacked experts with it alone
        }
        return tuple(option for option, flag in declared.items() if getattr(cls, flag, False))

    def ways(self, architecture: str) -> tuple[tuple[str, ...], ...]:
        towers = tuple(one for one in self.options(architecture) if "tower" in one)
        others = [(TRANSFORMERS,)] if served_by_transformers(architecture) else []
        sees = getattr(class_of(architecture), "supports_multimodal", False)
        return *others, *([(*towers, NO_TOWERS)] if sees else ())

    def load(self, directory: Path, settings: ModelSettings, group: RankGroup) -> ServedModel:
        with tables.unchanged("loading"):
            try:
                with loading(group, settings.stage):
                    return VllmModel(VllmHost(directory, settings, group), settings)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                raise (NoLoRASupport if any(one in said for one in _NO_LORA) else BaseModelError)(said) from error


class VllmModel(ServedModel):
    """One rank's model and worker manager."""

    def __init__(self, host: VllmHost, settings: ModelSettings) -> None:
        self._host, self._settings = host, settings
        self.model, self.forwards = host.model, host.forwards
        self._worker: Any = None
        self._holders: list[nn.Module] = []  # of everything that is computed with

    def serve_adapters(self) -> None:
        workers = importlib.import_module("vllm.lora.worker_manager")
        forget_addresses()

        def build(vllm_config: Any) -> Any:
            worker = workers.LRUCacheWorkerLoRAManager(
                vllm_config, engine.device(), getattr(self.model, "embedding_modules", {})
            )
            self.model = worker.create_lora_manager(self.model, vllm_config)
            return worker

        with self._host.ranked():
            self._worker = self._host.within(build)

    def add(self, number: int, directory: Path) -> None:
        with self._host.ranked():
            self._worker.add_adapter(self._request(number, directory))

    def replace(self, number: int, directory: Path) -> None:
        with self._host.ranked():
            self._worker.add_adapter(self._request(number, directory, load_inplace=True))

    def warm_up(self) -> None:
        with self._host.ranked():
            rank = self._worker.get_dummy_lora_warmup_rank(min(8, self._settings.max_rank))
            self._worker.add_dummy_lora(self._request(_DUMMY, Path("dummy")), rank)
            self._worker.add_adapter(self._request(_DUMMY, Path("dummy")))
            self._worker.remove_adapter(_DUMMY)

    def remove(self, number: int) -> None:
        with self._host.ranked():
            self._worker.remove_adapter(number)

    def held(self) -> list[Tensor]:
        if not self._holders:
            layers = self._worker._adapter_manager.modules.values()  # objects that are no modules hold some
            self._holders = list(dict.fromkeys((*self.model.modules(), *layers)))
        return [one for module in self._holders for one in tensors_of(module)]

    def names(self) -> tuple[str, ...]:
        return self._host.names()

    def towers(self) -> tuple[str, ...]:
        return self._host.towers()

    def read(self, *numbers: int | None, apart: bool = False, only: Container[str] | None = None) -> dict[str, Parts]:
        return self._host.read(self._view(*numbers, apart=apart), only)

    def logits(self, number: int | None, tokens: Tensor) -> Tensor:
        return self._host.logits(self._view(number), tokens)

    def _view(self, *numbers: int | None, apart: bool = False) -> VllmView | None:
        return None if self._worker is None else VllmView(self._worker, numbers, self._host.group, apart=apart)

    def _request(self, number: int, directory: Path, **how: bool) -> Any:
        request = importlib.import_module("vllm.lora.request").LoRARequest
        fused = self._settings.fused_experts
        return request(f"adapter {number}", number, str(directory), is_3d_lora_weight=fused, **how)


class VllmView(AdaptersView):
    """vLLM's LoRA layers, with the adapters that the tokens of a batch have in turn, or none."""

    def __init__(self, worker: Any, numbers: Sequence[int | None], group: RankGroup, *, apart: bool = False) -> None:
        self._worker, self._numbers, self._group, self._apart = worker, numbers, group, apart
        self._served: tuple[int, bool] | None = None  # by the last call; nobody else's comes in between
        with_towers = getattr(worker, "supports_tower_connector_lora", bool)()
        self._parts = ("LANGUAGE", "TOWER") if with_towers else ("",)
        if with_towers and worker._adapter_manager.mm_mapping.connector:  # who has none is not told of its tokens
            self._parts = (*self._parts, "CONNECTOR")

    def base_of(self, module: nn.Module) -> nn.Module | None:
        return module.base_layer if isinstance(module, runtime().lora_layers.BaseLayerWithLoRA) else None

    def weights(self, name: str, lora: Any, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        holders = self._worker._adapter_manager.lora_index_to_id
        if lora is None or self._numbers[0] not in holders or self._numbers[0] is None:
            return {}
        slot = holders.index(self._numbers[0])
        if "w13_weight" in own:
            return expert_weights(lora, own, slot, self._group)
        linear = isinstance(lora.base_layer, runtime().linear.LinearBase)
        return {"weight": linear_weight(lora, slot, self._group)} if linear else {}

    def serve(self, tokens: int, *, tower: bool = False) -> None:
        if self._served == (tokens, tower):
            return
        self._served = tokens, tower
        layers = importlib.import_module("vllm.lora.layers")
        for part in self._parts:  # each has token maps of its own
            others = self._apart and (part in ("", "LANGUAGE")) is tower
            ids = tuple(number or 0 for number in whose(self._numbers, tokens, others=others))
            kind = {"type": getattr(layers.LoRAMappingType, part)} if part else {}
            self._worker.set_active_adapters(set(), layers.LoRAMapping(ids, ids, is_prefill=False, **kind))
