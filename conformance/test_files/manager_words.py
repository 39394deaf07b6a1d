"""How the managers of two libraries are made and called in a regression file of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from conformance.subjects.calls import Call
from conformance.test_files import adapter_sources
from conformance.test_files.literals import call, one_line
from conformance.test_files.plays import Play


class ManagerWords(ABC):
    """One library's words for a model with adapters."""

    registered: ClassVar[str]
    active: ClassVar[str]
    methods: ClassVar[Mapping[str, str]]  # of a manager, by those of the suite
    load: ClassVar[str]  # of a layer, that puts an adapter's tensors into a slot

    @abstractmethod
    def imports(self, play: Play) -> set[str]:
        """Import lines, sorted by the caller."""

    @abstractmethod
    def definitions(self, play: Play) -> list[str]:
        """What stands above the test: the model's class, and what makes an adapter out of ``ADAPTERS``."""

    @abstractmethod
    def made(self, play: Play, *, named: bool) -> list[str]:
        """The manager of ``model``, called so if it is ``named``."""

    @abstractmethod
    def mapped(self, play: Play, ids: tuple[int, ...]) -> list[str]:
        """Says which adapter serves each token, 0 for none; the tokens of a tower are the others in reverse."""

    @abstractmethod
    def warmed_up(self, play: Play, lines: list[str]) -> list[str]:
        """``lines`` under a dummy adapter of the warm-up ``rank``."""

    def does(self, one: Call, *, looks: bool) -> list[str]:
        """The call, as an expression after what comes before it; ``looks`` where a look makes a difference."""
        method = self.methods[one.method.removesuffix("_failing")]
        identity = one.number + 1
        return [f"manager.{method}({self.added(identity) if one.method == 'add' else identity})"]

    @abstractmethod
    def added(self, identity: int) -> str:
        """The arguments with which an adapter is added."""


class LoraCompatManager(ManagerWords):
    """`lora_compat.LoRAManager`."""

    registered, active = "set(manager.registered)", "set(manager.active)"
    methods: ClassVar[Mapping[str, str]] = {m: m for m in ("add", "activate", "deactivate", "remove", "pin")}
    load = "slots.load"

    def imports(self, play: Play) -> set[str]:
        names = ["LoRAConfig", "LoRAManager"]
        from_disk = play.adds and play.program.from_disk
        names += ["Adapter", "load_adapter" if from_disk else "ModuleAdapter"] if play.adds else []
        names += ["PackedModules"] if play.packing() else []
        names += ["tensor_parallel"] if play.program.model.tp_size > 1 else []
        return {f"from lora_compat import {', '.join(names)}", *([adapter_sources.SAVING] if from_disk else [])}

    def definitions(self, play: Play) -> list[str]:
        adapter = adapter_sources.LORA_COMPAT_SAVED if play.program.from_disk else adapter_sources.LORA_COMPAT
        return [adapter] if play.adds else []

    def made(self, play: Play, *, named: bool) -> list[str]:
        program = play.program
        config: dict[str, object] = {"max_loras": program.max_loras, "max_lora_rank": program.max_rank}
        config |= {"fully_sharded_loras": True} if program.fully_sharded else {}
        arguments = ["model", "config"]
        if program.max_adapters != program.max_loras:
            arguments.append(f"max_adapters={program.max_adapters}")
        if play.packing():
            arguments.append("packed_modules=PackedModules(PACKED)")
        if program.model.tower:
            arguments.append(f"towers=({one_line(program.model.tower)},)")
        arguments += [] if program.evict else ["evict=False"]
        return [call("config = LoRAConfig", config), call(f"{_name(named)}LoRAManager", arguments)]

    def mapped(self, play: Play, ids: tuple[int, ...]) -> list[str]:
        told, tower = [one or None for one in ids], play.program.model.tower
        lines = [f"manager.map_tokens({one_line(told)})"]
        return [*lines, f"manager.map_tokens({one_line(told[::-1])}, tower={one_line(tower)})"] if tower else lines

    def added(self, identity: int) -> str:
        return f"{identity}, adapter({identity})"

    def warmed_up(self, play: Play, lines: list[str]) -> list[str]:
        tokens = len(play.program.batches[0])
        return [f"with manager.warmed_up({tokens}, default=8) as dummy_rank:", *(f"    {line}" for line in lines)]


class VllmManager(ManagerWords):
    """vLLM's own, driven as its worker does: what is activated is looked up first, which counts as a use."""

    registered, active = "set(manager.list_adapters())", "set(manager.lora_index_to_id) - {None}"
    methods: ClassVar[Mapping[str, str]] = {
        "add": "add_adapter",
        "activate": "activate_adapter",
        "deactivate": "deactivate_adapter",
        "remove": "remove_adapter",
        "pin": "pin_adapter",
    }
    load = "set_lora"

    def imports(self, play: Play) -> set[str]:
        lines = {
            "from vllm.config import VllmConfig",
            "from vllm.config.lora import LoRAConfig",
            "from vllm.distributed import parallel_state",
            f"from vllm.lora.model_manager import {_manager(play)}",
        }
        if play.adds:
            lines.add("from vllm.lora.lora_model import LoRAModel")
        if play.adds and play.program.from_disk:
            lines |= {"from vllm.lora.peft_helper import PEFTHelper", adapter_sources.SAVING}
        elif play.adds:
            lines.add("from vllm.lora.lora_weights import LoRALayerWeights")
        if any(turn.ids for turn in play.turns) or play.clause.startswith("RANK-"):
            lines.add("from vllm.lora.layers import LoRAMapping")
        return lines

    def definitions(self, play: Play) -> list[str]:
        model = vllm_model("PACKED" if play.packing() else "{}")
        adapter = adapter_sources.VLLM_SAVED if play.program.from_disk else adapter_sources.VLLM
        return [model, adapter.replace("RANK", str(play.program.max_rank))] if play.adds else [model]

    def made(self, play: Play, *, named: bool) -> list[str]:
        program = play.program
        config = [f"max_loras={program.max_loras}"] if program.max_loras > 1 else []
        config += [f"max_cpu_loras={program.max_adapters}"] if program.max_adapters > program.max_loras else []
        config += [f"max_lora_rank={program.max_rank}", "lora_dtype=torch.float32"]
        config += ["fully_sharded_loras=True"] if program.fully_sharded else []
        given = ["model", "8", "8", "32", "config", 'torch.device("cpu")', "VllmConfig()"]
        return [call("config = LoRAConfig", config), call(f"{_name(named)}{_manager(play)}", given)]

    def mapped(self, play: Play, ids: tuple[int, ...]) -> list[str]:
        told = one_line(ids)
        return [f"manager.set_adapter_mapping(LoRAMapping({told}, {told}, is_prefill=False))"]

    def warmed_up(self, play: Play, lines: list[str]) -> list[str]:
        tokens = len(play.program.batches[0])
        return [
            f"dummy_rank = manager.get_dummy_lora_warmup_rank({min(8, play.program.max_rank)})",
            "manager.add_adapter(manager.create_dummy_lora(99, dummy_rank, {}))",
            "manager.activate_adapter(99)",
            *self.mapped(play, (99,) * tokens),
            *lines,
        ]

    def added(self, identity: int) -> str:
        return f"adapter({identity})"

    def does(self, one: Call, *, looks: bool) -> list[str]:
        looked = [f"manager.get_adapter({one.number + 1})  # its worker does, and that is a use"]
        used = one.method.startswith("activate") and looks
        return [*(looked if used else []), *super().does(one, looks=looks)]


def _name(named: bool) -> str:
    return "manager = " if named else ""


def _manager(play: Play) -> str:
    return "LRUCacheLoRAModelManager" if play.program.evict else "LoRAModelManager"


def vllm_model(packed: str) -> str:
    """A class with all that vLLM's managers read of a model."""
    mapping = f"    packed_modules_mapping: dict[str, list[str]] = {packed}"
    return "\n".join(["class Model(torch.nn.Module):", mapping, *_LOOKS])


_LOOKS = (
    '    config = SimpleNamespace(architectures=["Model"])',
    "    embedding_modules: dict[str, str] = {}",
    "    supports_lora, is_3d_moe_weight, is_non_gated_moe = True, False, False",
)
