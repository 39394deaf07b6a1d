"""The parts that every test of a model has: its checkpoint and adapter, and how vLLM loads both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.vllm.models.engine import COPIED_EXPERTS
from conformance.subjects.models.checkpoints import resolved
from conformance.subjects.models.features import asked
from conformance.subjects.models.types import served_as
from conformance.test_files.literals import indented
from conformance.test_files.model_configs import ConfigText, constant
from conformance.test_files.model_skeletons import SkeletonText
from strategies.cases import Dtype
from strategies.models.adapters import SAVED_EMBEDDING, ModelAdapter
from strategies.models.cases import ModelCase
from strategies.models.deployments import PLAIN, given

CheckpointText = ConfigText | SkeletonText
_HOMES = {
    "peft": "LoraConfig get_peft_model",
    "safetensors.torch": "load_file save_file",
    "tempfile": "mkdtemp",
    "zlib": "crc32",
    "vllm.config": "VllmConfig set_current_vllm_config",
    "vllm.distributed": "parallel_state",
    "vllm.engine.arg_utils": "EngineArgs",
    "vllm.lora": "model_manager",
    "vllm.lora.layers": "BaseLayerWithLoRA LoRAMapping LoRAMappingType",
    "vllm.lora.request": "LoRARequest",
    "vllm.lora.worker_manager": "LRUCacheWorkerLoRAManager",
    "vllm.model_executor.layers.fused_moe.config": "FusedMoEConfig",
    "vllm.model_executor.model_loader": "get_model",
}
_GROUPS = """
os.environ["VLLM_TARGET_DEVICE"] = "cpu"  # of processes that look at model classes
with set_current_vllm_config(VllmConfig()):
    parallel_state.init_distributed_environment(1, 0, f"file:{mkdtemp()}/w", 0, "gloo")
    parallel_state.ensure_model_parallel_initialized(1, 1)
""".strip("\n")
_FILL = """
def fill(model: torch.nn.Module, most: int, parts: int, which: str = "") -> None:
    for name, parameter in model.named_parameters():  # exact numbers, none of them zero
        if which in name:
            random = torch.Generator().manual_seed(crc32(f"{seed}/{{name}}".encode()))
            drawn = torch.randint(-most, most, parameter.shape, generator=random)
            parameter.data.copy_((drawn + (drawn >= 0)) / parts)
""".strip("\n")
_SERVED = """
def served(directory: str) -> tuple[Any, Any]:
    config = EngineArgs(directory, enforce_eager=True, **ENGINE).create_engine_config()
    with set_current_vllm_config(config):
        model: Any = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), {})
        worker.create_lora_manager(model, config)
    return model, worker
""".strip("\n")
_LOADED = "        model: Any = get_model(vllm_config=config)"
ADDED = """
def whole(slots: Any, rank: int, rows: int) -> torch.Tensor:
    parts = []
    for at, (a, b) in enumerate(slots[rank]):  # fully sharded, one of both is cut by rank
        cut = len(slots[rank]) == 1 and len(b) < rows
        a = a if len(a) == b.shape[1] else torch.cat([one[at][0] for one in slots])
        parts.append((torch.cat([one[at][1] for one in slots]) if cut else b) @ a)
    return torch.cat(parts)
""".strip("\n")
OPENED = ['file = f"{folder}/adapter/adapter_model.safetensors"', "tensors = load_file(file)"]
CUT = [*OPENED, "save_file({key: one for key, one in tensors.items() if key.startswith(KEPT)}, file)"]
_DENSE = """
choose = vars(CpuPlatform)["get_attn_backend_cls"].__func__  # but for sparse ones
CpuPlatform.get_attn_backend_cls = classmethod(
    lambda cls, selected, attn_selector_config, **more: choose(
        cls, selected, attn_selector_config._replace(use_sparse=False), **more
    )
)
""".strip("\n")
_WITHOUT_GATE = """
def checked(config: Any) -> None:  # but for experts without a gate, which no CPU runs
    with suppress(NotImplementedError):
        check(config)


check = FusedMoEConfig.__post_init__
FusedMoEConfig.__post_init__ = checked
""".strip("\n")
_ROOM = """
tokens: dict[str, int] = {tokens}  # stands in for what a processor's files say of towers
room = SimpleNamespace(mm_max_items_per_prompt=tokens, mm_max_toks_per_item=tokens)
room.get_encoder_budget = lambda: 64
vars(model_manager)["MultiModalBudget"] = lambda *given: room
""".strip("\n")
_NEW_TOKEN = "base.get_input_embeddings().weight.data[-1] += 1  # of a new token"
_WITHOUT_AMX = 'vars(torch.cpu)["_is_amx_tile_supported"] = lambda: False  # not in the wheel'


@dataclass(frozen=True, slots=True)
class Engine:
    """A case as vLLM's engine is started for it, for experts in one tensor or not, with ``more`` options.

    Its numbers are ``exact``, those of the case, or whatever random ones the libraries draw.
    """

    case: ModelCase
    config: CheckpointText
    fused: bool
    more: Mapping[str, Any]
    exact: bool

    @property
    def dtype(self) -> str:
        """Of the checkpoint."""
        return self.case.dtype.of_tensors

    def options(self) -> dict[str, Any]:
        """Arguments of ``EngineArgs``, besides the model."""
        adapter = self.case.adapter
        asked = self.case.deployment
        most = max(adapter.rank, *(rank for _, rank in adapter.ranks), 8 * (asked.room > 1)) * asked.room
        told: dict[str, Any] = {"dtype": self.dtype, "enable_lora": True}
        told |= {"max_lora_rank": next(size for size in (16, 32, 64, 128) if size >= most)} if most > 16 else {}
        told |= {"max_loras": asked.slots} if asked.slots != PLAIN.slots else {}
        told |= {"max_cpu_loras": asked.slots + asked.spare} if asked.spare else {}
        told |= {"lora_dtype": "bfloat16"} if asked.narrow else {}
        told |= {"lora_target_modules": list(asked.modules)} if asked.modules else {}
        told |= {"fully_sharded_loras": True} if self.case.fully_sharded else {}
        told |= self.config.options()
        told |= {name: value for name, value in given(self.case.options).items() if name != COPIED_EXPERTS}
        asked_for = self.fused and not _stacked(self.case.target)
        return {**told, **({"enable_mixed_moe_lora_format": True} if asked_for else {}), **self.more}


def _stacked(target: str) -> bool:
    """Whether vLLM's class takes stacked experts without an option."""
    entry = served_as(resolved(target).architecture)
    return entry is not None and entry.stacked


def adapter_options(adapter: ModelAdapter) -> dict[str, Any]:
    """Arguments of ``LoraConfig``, as the suite gives them, without those that are so by default."""
    alpha = int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha
    given: dict[str, Any] = {"r": adapter.rank, "lora_alpha": alpha}
    given |= {"use_rslora": True} if adapter.rslora else {}
    given["target_modules"] = adapter.target_modules
    given |= {"target_parameters": list(adapter.parameters)} if adapter.parameters else {}
    given |= {"layers_to_transform": list(adapter.layers)} if adapter.layers else {}
    given |= {"rank_pattern": adapter.rank_pattern} if adapter.ranks else {}
    given |= asked(adapter.feature)
    return given | ({"alpha_pattern": adapter.alpha_pattern} if adapter.alphas else {})


def _adapter(engine: Engine) -> dict[str, Any]:
    asked = adapter_options(engine.case.adapter)
    return asked if engine.exact else {**asked, "init_lora_weights": False}  # B is not zero


def definitions(engine: Engine, more: Sequence[str] = ()) -> list[str]:
    """Constants and functions, ``served(directory)`` among them, and ``more`` of either."""
    functions = [one for one in more if one.startswith("def ")]
    constants = [one for one in more if one not in functions]
    constants += [*engine.config.lines(), constant("ADAPTER", _adapter(engine))]
    constants += [constant("ENGINE", engine.options()), *_stand_ins(engine.config.content), *_room(engine), _GROUPS]
    filled = _FILL.replace("{seed}", str(engine.case.seed)).replace("{{name}}", "{name}")
    served = _SERVED.replace("    with", "\n".join([*_dealt_out(engine.case), "    with"]), 1)
    loading = [_LOADED, *indented(indented(engine.config.loading()))]
    served = served.replace(_LOADED, "\n".join(loading))
    return ["\n".join(constants), *functions, *([filled] if engine.exact else []), *engine.config.publishing(), served]


def made(engine: Engine, *, merged: bool, then: Sequence[str]) -> list[str]:
    """Statements that save the base checkpoint, the adapter and, if asked, the merged checkpoint into a ``folder``.

    ``then`` are done once the adapter is there.
    """
    config = engine.config
    weight, of_b, of_a = {"bfloat16": ("4, 8", "3, 4", "1, 4")}.get(engine.dtype, ("8, 8", "7, 4", "7, 4"))
    alike = [f'fill(adapted, {of_a}, "lora_")']
    factors = alike if of_a == of_b else [f'fill(adapted, {of_a}, "_A.")', f'fill(adapted, {of_b}, "_B.")']
    typed = [f"base.to({torch_dtype(engine.case.dtype)})"] if engine.case.dtype is not Dtype.FLOAT32 else []
    lines = [
        "folder = mkdtemp()",
        *config.making(),
        *typed,
        *([f"fill(base, {weight})"] if engine.exact else []),
        *config.saving("base", 'f"{folder}/base"'),
        *([_NEW_TOKEN] if engine.case.adapter.feature == SAVED_EMBEDDING else []),
        "adapted: Any = get_peft_model(base, LoraConfig(**ADAPTER))",
        *(factors if engine.exact else []),
        'adapted.save_pretrained(f"{folder}/adapter")',
        *then,
    ]
    if not merged:
        return lines
    return [*lines, "merged: Any = adapted.merge_and_unload()", *config.saving("merged", 'f"{folder}/merged"')]


def _dealt_out(case: ModelCase) -> Iterator[str]:
    """Statements by which a rank has a part of each layer, or the layers of one stage."""
    if case.tp_size > 1:
        yield f"    config.parallel_config.tensor_parallel_size = {case.tp_size}"
    copies = given(case.options).get(COPIED_EXPERTS)
    if copies:
        yield "    config.parallel_config.enable_eplb = True  # options of EngineArgs, which vLLM takes on a GPU alone"
        yield f"    config.parallel_config.eplb_config.num_redundant_experts = {copies}"
    if case.stage is not None:
        ends = f"is_first_rank={case.stage == 0}, is_last_rank={case.stage == case.stages - 1}"
        yield f"    config.parallel_config.pipeline_parallel_size = {case.stages}"
        yield f"    stage = SimpleNamespace(rank_in_group={case.stage}, world_size={case.stages}, {ends})"
        yield "    parallel_state._PP = stage  # stands in for that stage's rank"


def _stand_ins(content: Any) -> Sequence[str]:
    """What a CPU lacks and a model is built with, none of it what the test is about."""
    names = set(_names(content))
    found = [_WITHOUT_AMX] if "kv_lora_rank" in names else []
    found += [_DENSE] if "index_topk" in names else []
    return [*found, *([_WITHOUT_GATE] if content.get("mlp_hidden_act") == "relu2" else [])]


def _room(engine: Engine) -> list[str]:
    modality = "image" if "vision_config" in _names(engine.config.content) else "audio"
    off = given(engine.case.options).get("limit_mm_per_prompt", {}).get(modality) == 0
    room = _ROOM.format(tokens="{}" if off else f'{{"{modality}": 64}}')
    return [room] if any("tower" in one for one in engine.case.options) else []


def _names(content: Any) -> Sequence[str]:
    found = list(content)
    for value in content.values():
        found += _names(value) if isinstance(value, dict) else []
    return found


def imports_of(text: str, config: CheckpointText) -> set[str]:
    """Import lines for the names in a text."""
    words = set(re.findall(r"\w+", text))
    homes = {name: module for module, names in _HOMES.items() for name in names.split()}
    lines = {f"from {module} import {name}" for name, module in homes.items() if name in words}
    return {
        *lines,
        *config.imports,
        "import os",
        "import torch",
    }
