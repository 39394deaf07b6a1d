"""A PEFT model over a tree of torch's layers, driven as a server would: adapters are loaded, asked for and deleted.

PEFT has no capacity. An adapter is registered where its files are known, and active once `load_adapter` has them in
the model, from which `delete_adapter` takes them again; what is active is asked of PEFT.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from conformance.implementations.model_protocol import InjectedFault, ModelDeployment, ModelManager
from conformance.implementations.peft.hosting import NOBODY, Host, peft
from lora_compat.model_adapters import Adapter

EVERY_LINEAR = "all-linear"  # how PEFT says that no target is named in particular


class PeftManager(ModelManager):
    """The adapters of one model."""

    remaps_itself = False  # the samples' adapters are an argument of every forward

    def __init__(self, model: nn.Module, deployment: ModelDeployment) -> None:
        self._tree = model
        targets = EVERY_LINEAR if deployment.targets is None else list(deployment.targets)
        self._host = Host(model, name=True, target_modules=targets)
        self._known: dict[int, Adapter | Path] = {}

    def wrapped(self, name: str) -> bool:
        return isinstance(self._tree.get_submodule(name), peft().tuners.lora.LoraLayer)

    def add(self, adapter_id: int, adapter: Adapter) -> bool:
        return self._register(adapter_id, adapter)

    def add_directory(self, adapter_id: int, path: Path) -> bool:
        return self._register(adapter_id, path)

    def _register(self, adapter_id: int, adapter: Adapter | Path) -> bool:
        fresh = adapter_id not in self._known
        self._known.setdefault(adapter_id, adapter)
        return fresh

    def activate(self, adapter_id: int) -> bool:
        known = self._known[adapter_id]
        if adapter_id in self.active():
            return False
        with _directory(known) as path:
            self._host.load(_name(adapter_id), path)
        return True

    def deactivate(self, adapter_id: int) -> bool:
        there = adapter_id in self.active()
        self._host.delete(_name(adapter_id))
        return there

    def remove(self, adapter_id: int) -> bool:
        self.deactivate(adapter_id)
        return self._known.pop(adapter_id, None) is not None

    def pin(self, adapter_id: int) -> None:
        raise NotImplementedError("PEFT evicts nothing")

    def map_tokens(self, adapter_ids: Sequence[int | None], *, tower: bool = False) -> None:
        self._host.select([NOBODY if one is None else _name(one) for one in adapter_ids])

    def registered(self) -> frozenset[int]:
        return frozenset(self._known)

    def active(self) -> frozenset[int]:
        return frozenset(int(name.rpartition("_")[2]) for name in self._host.names)

    @contextmanager
    def failing_at(self, name: str) -> Iterator[None]:
        """In the call that makes room for an adapter in a layer."""
        layer: Any = self._tree.get_submodule(name)

        def update_layer(*args: object, **options: object) -> None:
            raise InjectedFault(f"adding to {name} failed")

        layer.update_layer = update_layer
        try:
            yield
        finally:
            del layer.update_layer

    def rank_parts(self) -> Collection[int] | None:
        return [1]

    def warmed_up(self, tokens: int, default: int) -> AbstractContextManager[int]:
        raise NotImplementedError("PEFT is not warmed up")


def _name(adapter_id: int) -> str:
    return f"adapter_{adapter_id}"


@contextmanager
def _directory(adapter: Adapter | Path) -> Iterator[Path]:
    """The adapter as `save_pretrained` writes one, with each module's own rank and scaling."""
    if isinstance(adapter, Path):
        yield adapter
        return
    ranks = {re.escape(name): module.part.rank for name, module in adapter.modules.items()}
    alphas = {
        key: rank * one.scaling for (key, rank), one in zip(ranks.items(), adapter.modules.values(), strict=True)
    }
    config: Any = peft().LoraConfig(target_modules=list(adapter.modules), rank_pattern=ranks, alpha_pattern=alphas)
    tensors = {}
    for name, module in adapter.modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = module.lora_a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = module.lora_b.contiguous()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(tensors, Path(folder) / "adapter_model.safetensors")
        yield Path(folder)
