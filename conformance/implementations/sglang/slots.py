"""The slots of one LoRA layer, in SGLang's memory pool: loaded and selected by the calls that its manager makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from conformance.implementations.sglang.modules import MEMBERS, OneLayerModel, module_name
from conformance.implementations.sglang.runtime import runtime
from lora_compat.adapters import LayerAdapter

BASE = 0  # the pool's slot of tokens without an adapter, where its manager puts them first


def backend_of(max_loras: int, device: torch.device) -> Any:
    """The torch backend, with one slot more for tokens without an adapter."""
    return runtime().torch_backend.TorchNativeLoRABackend(max_loras + 1, device)


def adapter_of(uid: str, tensors: dict[str, Tensor], rank: int, scaling: float, model: Any, backend: Any) -> Any:
    """SGLang's adapter with these checkpoint tensors, normalized as it does on loading; they are in copies."""
    names = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
    config = runtime().lora_config.LoRAConfig.from_dict(
        {"peft_type": "LORA", "r": rank, "lora_alpha": scaling * rank, "target_modules": names}
    )
    found = runtime().lora_adapter.LoRAAdapter(uid, config, model.config, None, backend, base_model=model)
    found.initialize_weights_from_tensors({name: tensor.clone() for name, tensor in tensors.items()})
    return found


def tell(backend: Any, tokens: list[int], adapters: dict[int, Any]) -> None:
    """Tells the backend each token's slot in the pool, as a batch of decodes; ``adapters`` has what the slots hold."""
    if not tokens:  # a batch without tokens is idle: its manager resets the backend
        backend.reset_batch_state()
        return
    slots = range(backend.max_loras_per_batch)
    ranks = [adapters[slot].config.r if slot in adapters else 0 for slot in slots]
    scalings = [adapters[slot].scaling if slot in adapters else 0.0 for slot in slots]
    mode = runtime().forward_batch.ForwardMode.DECODE
    batch = SimpleNamespace(forward_mode=mode, batch_size=len(tokens))
    backend.prepare_lora_batch(batch, tokens, ranks, scalings, False)
    backend.batch_info.has_active_lora = any(ranks[slot] for slot in tokens)


class LayerSlots:
    """One layer's part of the memory pool."""

    def __init__(self, wrapped: Any, max_loras: int, max_rank: int, dtype: torch.dtype) -> None:
        self._name = module_name(wrapped.base_layer)
        self._path = f"layers.0.{self._name}"
        self._backend = wrapped.lora_backend
        self._model = OneLayerModel(self._name, wrapped, wrapped.base_layer)
        self._modules = [{self._path: wrapped}]
        self._adapters: dict[int, Any] = {}
        self.pool = runtime().memory_pool.LoRAMemoryPool(
            base_hf_config=self._model.config,
            max_loras_per_batch=max_loras + 1,
            dtype=dtype,
            max_lora_rank=max_rank,
            target_modules={self._name},
            base_model=self._model,
            eviction_policy="lru",
            lora_added_tokens_size=0,
        )
        kinds = runtime().lora_utils.LoRAType
        wrapped.set_lora_info(*(self.pool.get_tensor(self._name, 0, kind) for kind in (kinds.LORA_A, kinds.LORA_B)))
        self._place(None, BASE, None)

    def load(self, slot: int, adapter: LayerAdapter) -> None:
        """Evicts what the slot held, as the pool does: by writing over it."""
        tensors: dict[str, Tensor] = {}
        members = MEMBERS[self._name] if len(adapter.parts) > 1 else (self._name,)
        for name, part in zip(members, adapter.parts, strict=True):
            if part is not None:
                prefix = f"base_model.model.model.layers.0.{name}"
                tensors |= {f"{prefix}.lora_A.weight": part.lora_a, f"{prefix}.lora_B.weight": part.lora_b}
        rank = max(part.rank for part in adapter.parts if part is not None)
        uid = f"adapter in slot {slot}"
        self._place(uid, slot + 1, adapter_of(uid, tensors, rank, adapter.scaling, self._model, self._backend))

    def reset(self, slot: int) -> None:
        """Unloads the slot's adapter."""
        self.pool.remove_lora(f"adapter in slot {slot}")
        self._adapters.pop(slot + 1, None)

    def select(self, slots: tuple[int, ...]) -> None:
        """Says which slot serves each token, -1 for none."""
        tell(self._backend, [slot + 1 if slot >= 0 else BASE for slot in slots], self._adapters)

    def _place(self, uid: str | None, buffer: int, adapter: Any) -> None:
        self.pool.load_lora_weight_to_buffer(uid, buffer, adapter, self._modules, None, None)
        self.pool.uid_to_buffer_id[uid] = buffer
        self.pool.buffer_id_to_uid[buffer] = uid
        self.pool.eviction_policy.mark_used(uid)
        if adapter is not None:
            self._adapters[buffer] = adapter


def slots_of(wrapped: nn.Module) -> LayerSlots:
    """The slots that a layer was wrapped with."""
    found: LayerSlots = wrapped.__dict__["slots"]
    return found
