"""The slots of one LoRA layer, in SGLang's memory pool: loaded and selected by the calls that its manager makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from conformance.implementations.protocol import Deployment
from conformance.implementations.sglang.modules import MEMBERS, ToyModel, one_layer_model
from conformance.implementations.sglang.runtime import runtime
from lora_compat.adapters import LayerAdapter

BASE = 0  # the pool's slot of tokens without an adapter, where SGLang's manager puts them first


def backend_of(max_loras: int, device: torch.device) -> Any:
    """The torch backend, with one slot more for tokens without an adapter."""
    return runtime().torch_backend.TorchNativeLoRABackend(max_loras + 1, device)


def pool_of(model: ToyModel, targets: set[str], backend: Any, max_rank: int, dtype: torch.dtype) -> Any:
    """The memory pool of a model whose layers are wrapped."""
    return runtime().memory_pool.LoRAMemoryPool(
        base_hf_config=model.config,
        max_loras_per_batch=backend.max_loras_per_batch,
        dtype=dtype,
        max_lora_rank=max_rank,
        target_modules=targets,
        base_model=model,
        eviction_policy="lru",
        lora_added_tokens_size=0,
    )


@dataclass(slots=True)
class Slots:
    """What SGLang's manager does with one pool; slot s is the pool's s + 1."""

    model: ToyModel
    pool: Any
    backend: Any
    layers: list[dict[str, Any]] = field(default_factory=list)
    embedding: Any = None
    head: Any = None
    adapters: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._place(None, BASE, None)

    def load(self, slot: int, tensors: Mapping[str, Tensor], rank: int, scaling: float) -> None:
        """Evicts what the slot held, as the pool does: by writing over it. The tensors are handed over in copies."""
        targets = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in tensors})
        config = runtime().lora_config.LoRAConfig.from_dict(
            {"peft_type": "LORA", "r": rank, "lora_alpha": scaling * rank, "target_modules": targets}
        )
        make = runtime().lora_adapter.LoRAAdapter
        adapter = make(_uid(slot), config, self.model.config, None, self.backend, base_model=self.model)
        adapter.initialize_weights_from_tensors({name: tensor.clone() for name, tensor in tensors.items()})
        self._place(_uid(slot), slot + 1, adapter)

    def reset(self, slot: int) -> None:
        """Unloads the slot's adapter."""
        self.pool.remove_lora(_uid(slot))
        self.adapters.pop(slot + 1, None)

    def select(self, slots: tuple[int, ...]) -> None:
        """Says which slot serves each token, -1 for none: a batch of decodes, or an idle one without tokens."""
        if not slots:
            self.backend.reset_batch_state()
            return
        held = [self.adapters.get(slot) for slot in range(self.backend.max_loras_per_batch)]
        ranks = [adapter.config.r if adapter else 0 for adapter in held]
        scalings = [adapter.scaling if adapter else 0.0 for adapter in held]
        served = [slot + 1 if slot >= 0 else BASE for slot in slots]
        mode = runtime().forward_batch.ForwardMode.DECODE
        batch = SimpleNamespace(forward_mode=mode, batch_size=len(slots))
        self.backend.prepare_lora_batch(batch, served, ranks, scalings, False)
        self.backend.batch_info.has_active_lora = any(ranks[slot] for slot in served)

    def _place(self, uid: str | None, buffer: int, adapter: Any) -> None:
        self.pool.load_lora_weight_to_buffer(uid, buffer, adapter, self.layers, self.embedding, self.head)
        self.pool.uid_to_buffer_id[uid] = buffer
        self.pool.buffer_id_to_uid[buffer] = uid
        self.pool.eviction_policy.mark_used(uid)
        if adapter is not None:
            self.adapters[buffer] = adapter


def _uid(slot: int) -> str:
    return f"adapter in slot {slot}"


@dataclass(frozen=True, slots=True)
class LayerSlots:
    """The slots of a linear layer, under a name that SGLang knows."""

    name: str
    slots: Slots

    @classmethod
    def of(cls, wrapped: Any, deployment: Deployment) -> LayerSlots:
        """For a layer that was just wrapped."""
        name, model = one_layer_model(wrapped)
        pool = pool_of(model, {name}, wrapped.lora_backend, deployment.max_lora_rank, deployment.dtype)
        kinds = runtime().lora_utils.LoRAType
        wrapped.set_lora_info(*(pool.get_tensor(name, 0, kind) for kind in (kinds.LORA_A, kinds.LORA_B)))
        return cls(name, Slots(model, pool, wrapped.lora_backend, [{f"layers.0.{name}": wrapped}]))

    def load(self, slot: int, adapter: LayerAdapter) -> None:
        """Loads an adapter under the names of its checkpoint."""
        tensors: dict[str, Tensor] = {}
        members = MEMBERS[self.name] if len(adapter.parts) > 1 else (self.name,)
        for name, part in zip(members, adapter.parts, strict=True):
            if part is not None:
                prefix = f"base_model.model.model.layers.0.{name}"
                tensors |= {f"{prefix}.lora_A.weight": part.lora_a, f"{prefix}.lora_B.weight": part.lora_b}
        rank = max(part.rank for part in adapter.parts if part is not None)
        self.slots.load(slot, tensors, rank, adapter.scaling)


def slots_of(wrapped: nn.Module) -> LayerSlots:
    """The slots that a layer was wrapped with."""
    found: LayerSlots = wrapped.__dict__["slots"]
    return found
