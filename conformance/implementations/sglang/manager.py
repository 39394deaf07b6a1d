"""SGLang's `LoRAManager` and its memory pool over a tree of its own layers, driven as by its scheduler."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from conformance.implementations.model_protocol import InjectedFault, ModelDeployment, ModelManager
from conformance.implementations.sglang.modules import MEMBERS, dress
from conformance.implementations.sglang.runtime import refusing, runtime
from lora_compat.families import Family
from lora_compat.model_adapters import Adapter
from strategies.trees import ModelSpec, ModuleSpec

# By these names its pool knows what a layer of the family holds on each rank; of others it cuts the rows of B.
_NAMES = {Family.ROW: ("o_proj", "down_proj"), Family.REPLICATED: ("fc1_latent_proj", "fc2_latent_proj")}


def unsupported_model(model: ModelSpec, deployment: ModelDeployment) -> str | None:
    """Why SGLang serves no such model, or None."""
    if model.tower:
        return "SGLang maps all tokens of a batch alike: towers have none of their own"
    if not deployment.evict:
        return "SGLang's pool makes room whenever it can"
    return next((reason for module in model.linears if (reason := _unknown(module))), None)


def _unknown(module: ModuleSpec) -> str | None:
    last, family = module.name.rpartition(".")[2], module.layer.family
    if not re.search(r"layers\.\d+\.", module.name):
        return "SGLang wraps modules in `layers.N.` alone"
    if last not in _NAMES.get(family, (last,)):
        return f"SGLang's pool knows a {family.value} layer by its name, as one of {', '.join(_NAMES[family])}"
    members = MEMBERS.get(last, ())
    if family.packed and (len(members) != len(module.layer.output_sizes) or module.children not in ((last,), members)):
        return "SGLang knows the members of packed layers by their names"
    return None


class SglangManager(ModelManager):
    """One rank's manager; a slot more than adapters is for tokens without one."""

    remaps_itself = False  # its scheduler maps the tokens of every batch

    def __init__(self, model: nn.Module, deployment: ModelDeployment) -> None:
        self.model = model
        dress(model)
        with refusing():
            self.manager = self._made_for(model, deployment)
        self._loads: dict[int, Any] = {}

    def _made_for(self, model: Any, deployment: ModelDeployment) -> Any:
        return runtime().lora_manager.LoRAManager(
            base_model=model,
            base_hf_config=model.config,
            max_loras_per_batch=deployment.max_loras + 1,
            load_config=importlib.import_module("sglang.srt.configs.load_config").LoadConfig(),
            dtype=deployment.dtype,
            server_args=runtime().context.get_server_args(),
            lora_backend="torch_native",
            max_lora_rank=deployment.max_lora_rank,
            target_modules=_targets(model) if deployment.targets is None else set(deployment.targets),
        )

    def wrapped(self, name: str) -> bool:
        return isinstance(self.model.get_submodule(name), runtime().lora_layers.BaseLayerWithLoRA)

    def add(self, adapter_id: int, adapter: Adapter) -> bool:
        tensors: dict[str, Tensor] = {}
        for name, part in adapter.modules.items():
            prefix = f"base_model.model.{name}"
            tensors |= {f"{prefix}.lora_A.weight": part.lora_a.clone(), f"{prefix}.lora_B.weight": part.lora_b.clone()}
        load = self.manager.load_lora_adapter_from_tensors
        return self._add(adapter_id, lambda ref: load(ref, dict(tensors), _config_of(adapter)))

    def add_directory(self, adapter_id: int, path: Path) -> bool:
        return self._add(adapter_id, self.manager.load_lora_adapter, str(path))

    def activate(self, adapter_id: int) -> bool:
        """As the scheduler does for a batch of this adapter alone."""
        if adapter_id not in self.registered():
            raise KeyError(f"adapter {adapter_id} is not registered")
        before = adapter_id in self.active()
        self.manager.fetch_new_loras({str(adapter_id)})
        return not before

    def deactivate(self, adapter_id: int) -> bool:
        return self.manager.memory_pool.remove_lora(str(adapter_id)) is not None

    def remove(self, adapter_id: int) -> bool:
        if adapter_id not in self.registered():
            return False
        _require(self.manager.unload_lora_adapter(self.manager.lora_refs[str(adapter_id)]))
        return True

    def pin(self, adapter_id: int) -> None:
        """Loaded anew, as SGLang pins what it is told to pin on loading."""
        if adapter_id not in self.registered():
            raise KeyError(f"adapter {adapter_id} is not registered")
        if self.manager.lora_refs[str(adapter_id)].pinned:
            return
        if self.manager.num_pinned_loras >= self.manager.max_loras_per_batch - 1:
            raise ValueError("SGLang leaves a slot that is not pinned")
        self.remove(adapter_id)
        load, path = self._loads[adapter_id]
        _require(load(_ref(adapter_id, path, pinned=True)))
        self.activate(adapter_id)

    def map_tokens(self, adapter_ids: Sequence[int | None], *, tower: bool = False) -> None:
        uids = [None if one is None else str(one) for one in adapter_ids]
        absent = set(uids) - set(self.manager.memory_pool.uid_to_buffer_id)
        if absent:
            self.manager.fetch_new_loras(set(uids))
        mode = runtime().forward_batch.ForwardMode.DECODE
        self.manager.prepare_lora_batch(SimpleNamespace(forward_mode=mode, batch_size=len(uids), lora_ids=uids))

    def registered(self) -> frozenset[int]:
        return frozenset(map(int, self.manager.lora_refs))

    def active(self) -> frozenset[int]:
        return frozenset(int(uid) for uid in self.manager.memory_pool.uid_to_buffer_id if uid is not None)

    @contextmanager
    def failing_at(self, name: str) -> Iterator[None]:
        layer: Any = self.model.get_submodule(name)

        def cut(*args: object) -> None:
            raise InjectedFault(f"the copy into {name} failed")

        layer.slice_lora_b_weights = cut
        try:
            yield
        finally:
            del layer.slice_lora_b_weights

    def warmed_up(self, tokens: int, default: int) -> AbstractContextManager[int]:
        raise NotImplementedError("SGLang warms up without a dummy adapter")

    def _add(self, adapter_id: int, load: Any, path: str = "in memory") -> bool:
        if adapter_id in self.registered():
            return False
        _require(load(_ref(adapter_id, path)))
        self._loads[adapter_id] = load, path
        return True


def _ref(adapter_id: int, path: str, *, pinned: bool = False) -> Any:
    make = importlib.import_module("sglang.srt.lora.lora_registry").LoRARef
    return make(lora_id=str(adapter_id), lora_name=f"adapter {adapter_id}", lora_path=path, pinned=pinned)


def _require(result: Any) -> None:
    """What SGLang hands back to its HTTP server, raised."""
    if not result.success:
        raise ValueError(result.error_message)


def _targets(model: nn.Module) -> set[str]:
    """The last parts of the names of all layers that a family has: what ``--lora-target-modules`` would list."""
    base = runtime().linear.LinearBase
    found = (name for name, one in model.named_modules() if isinstance(one, base) and one.quant_method is not None)
    return {name.rpartition(".")[2] for name in found}


def _config_of(adapter: Adapter) -> Mapping[str, object]:
    """The adapter's PEFT config; ranks and scalings that differ from the first module's stand in the patterns."""
    ranks = {re.escape(name): part.part.rank for name, part in adapter.modules.items()}
    alphas = {re.escape(name): part.scaling * part.part.rank for name, part in adapter.modules.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in adapter.modules}),
        "rank_pattern": {name: one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {name: one for name, one in alphas.items() if one != alpha},
    }
