"""vLLM's `LoRAModelManager` and `LRUCacheLoRAModelManager` over a tree of its own layers, driven as by its worker."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from conformance.implementations.model_protocol import InjectedFault, ModelDeployment, ModelManager
from conformance.implementations.vllm.cuda import forget_addresses
from conformance.implementations.vllm.runtime import add_spare_slot, needs_spare_slot, runtime
from lora_compat.model_adapters import Adapter

_TOKENS = 64
_VOCABULARY = 32  # of no meaning to linear layers
_WARM_UP = 1_000_000  # the id of the dummy adapter


class VllmManager(ModelManager):
    """One rank's manager: the LRU one where a full house evicts, the plain one where it refuses."""

    remaps_itself = False  # its worker maps the tokens before every step

    def __init__(self, model: nn.Module, deployment: ModelDeployment) -> None:
        self.model = model
        _dress(model, deployment)
        self.config = runtime().config.LoRAConfig(
            max_lora_rank=deployment.max_lora_rank,
            max_loras=deployment.max_loras,
            max_cpu_loras=deployment.max_adapters,
            fully_sharded_loras=deployment.fully_sharded,
            lora_dtype=deployment.dtype,
            target_modules=None if deployment.targets is None else list(deployment.targets),
        )
        managers = runtime().model_manager
        make = managers.LRUCacheLoRAModelManager if deployment.evict else managers.LoRAModelManager
        self.manager: Any = make(
            model=model,
            max_num_seqs=_TOKENS,
            max_num_batched_tokens=_TOKENS,
            vocab_size=_VOCABULARY,
            lora_config=self.config,
            device=next(model.parameters()).device,
            vllm_config=importlib.import_module("vllm.config").get_current_vllm_config(),
        )
        forget_addresses()
        if needs_spare_slot():
            for layer in self.manager.modules.values():
                add_spare_slot(layer)

    def wrapped(self, name: str) -> bool:
        return isinstance(self.model.get_submodule(name), runtime().lora_layers.BaseLayerWithLoRA)

    def add(self, adapter_id: int, adapter: Adapter) -> bool:
        return bool(self.manager.add_adapter(self._in_memory(adapter_id, adapter)))

    def add_directory(self, adapter_id: int, path: Path) -> bool:
        return bool(self.manager.add_adapter(self._from_disk(adapter_id, path)))

    def replace(self, adapter_id: int, adapter: Adapter | Path) -> None:
        """By the worker's own code, around this manager."""
        workers: Any = importlib.import_module("vllm.lora.worker_manager").LRUCacheWorkerLoRAManager
        if isinstance(adapter, Path):
            anew = self._from_disk(adapter_id, adapter)
        else:
            anew = self._in_memory(adapter_id, adapter)
        worker = object.__new__(workers)
        worker._adapter_manager, worker._load_adapter = self.manager, lambda request: anew
        request = importlib.import_module("vllm.lora.request").LoRARequest
        worker.add_adapter(request(str(adapter_id), adapter_id, "anew", load_inplace=True))

    def _in_memory(self, adapter_id: int, adapter: Adapter) -> Any:
        """In copies: the manager merges the members of packed layers and multiplies B by the scaling in place."""
        weights = {
            name: runtime().lora_weights.LoRALayerWeights(
                name, part.part.rank, part.part.rank, part.lora_a.clone(), part.lora_b.clone(), part.scaling
            )
            for name, part in adapter.modules.items()
        }
        rank = max(part.part.rank for part in adapter.modules.values())
        return _lora_model().LoRAModel(adapter_id, rank, weights)

    def _from_disk(self, adapter_id: int, path: Path) -> Any:
        packed = self.manager.packed_modules_mapping
        expected = {
            name for module in self.manager.supported_lora_modules for name in packed.get(module, [module])
        }  # fmt: skip
        helper = importlib.import_module("vllm.lora.peft_helper").PEFTHelper.from_local_dir(str(path), None)
        helper.validate_legal(self.config)
        return _lora_model().LoRAModel.from_local_checkpoint(
            str(path),
            expected,
            peft_helper=helper,
            lora_model_id=adapter_id,
            device="cpu",
            dtype=self.config.lora_dtype,
            model_vocab_size=_VOCABULARY,
        )

    def activate(self, adapter_id: int) -> bool:
        self.manager.get_adapter(adapter_id)  # counts as used, as the worker's own look does
        return bool(self.manager.activate_adapter(adapter_id))

    def deactivate(self, adapter_id: int) -> bool:
        return bool(self.manager.deactivate_adapter(adapter_id))

    def remove(self, adapter_id: int) -> bool:
        return bool(self.manager.remove_adapter(adapter_id))

    def pin(self, adapter_id: int) -> None:
        self.manager.pin_adapter(adapter_id)

    def map_tokens(self, adapter_ids: Sequence[int | None], *, tower: bool = False) -> None:
        ids = tuple(adapter_id or 0 for adapter_id in adapter_ids)
        mapping = runtime().lora_layers.LoRAMapping(index_mapping=ids, prompt_mapping=ids, is_prefill=False)
        self.manager.set_adapter_mapping(mapping)

    def registered(self) -> frozenset[int]:
        return frozenset(self.manager.list_adapters())

    def active(self) -> frozenset[int]:
        return frozenset(one for one in self.manager.lora_index_to_id if one is not None)

    @contextmanager
    def failing_at(self, name: str) -> Iterator[None]:
        layer: Any = self.model.get_submodule(name)

        def set_lora(*args: object) -> None:
            raise InjectedFault(f"the copy into {name} failed")

        layer.set_lora = set_lora
        try:
            yield
        finally:
            del layer.set_lora

    def rank_parts(self) -> Collection[int] | None:
        """Linear layers cut their slots' rank, whatever the adapter's is; only mixtures of experts declare that."""
        return [layer.tp_size for layer in self.manager.modules.values() if getattr(layer, "fully_sharded", False)]

    @contextmanager
    def warmed_up(self, tokens: int, default: int) -> Iterator[int]:
        choose = getattr(self.manager, "get_dummy_lora_warmup_rank", lambda rank: rank)  # 0.19.1 has no choice
        rank: int = choose(min(default, self.config.max_lora_rank))
        self.manager.add_adapter(self.manager.create_dummy_lora(_WARM_UP, rank, {}))
        self.manager.activate_adapter(_WARM_UP)
        self.map_tokens([_WARM_UP] * tokens)
        try:
            yield rank
        finally:
            self.manager.remove_adapter(_WARM_UP)


def _dress(model: nn.Module, deployment: ModelDeployment) -> None:
    """Gives the tree what the manager reads of a model."""
    looks: dict[str, object] = {
        "packed_modules_mapping": {name: list(parts) for name, parts in deployment.packed.items()},
        "config": SimpleNamespace(architectures=["ModelTree"]),
        "lora_manager": None,
        "supports_lora": True,
        "is_3d_moe_weight": False,
        "is_non_gated_moe": False,
        "embedding_modules": {},
        "lora_skip_prefixes": [],
    }
    for name, value in looks.items():
        setattr(model, name, value)


def _lora_model() -> Any:
    return importlib.import_module("vllm.lora.lora_model")
