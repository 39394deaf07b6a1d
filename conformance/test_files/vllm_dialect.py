"""The words of plain vLLM on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from conformance.implementations.protocol import Deployment
from conformance.subjects.calls import Call
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import WIDTH, call, one_line, tensor_text
from conformance.test_files.plays import Play
from lora_compat.adapters import LayerAdapter
from strategies.libraries import Library

_MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_MODULES = {
    "config": "VllmConfig set_current_vllm_config",
    "config.lora": "LoRAConfig",
    "distributed": "parallel_state",
    "lora.layers": "BaseLayerWithLoRA LoRAMapping LogitsProcessorWithLoRA",
    "lora.lora_model": "LoRAModel",
    "lora.lora_weights": "LoRALayerWeights",
    "lora.model_manager": "LRUCacheLoRAModelManager LoRAModelManager",
    "lora.peft_helper": "PEFTHelper",
    "lora.punica_wrapper": "get_punica_wrapper",
    "lora.request": "LoRARequest",
    "lora.worker_manager": "LRUCacheWorkerLoRAManager",
    "lora.utils": "_all_lora_classes from_layer",
    "model_executor.layers.logits_processor": "LogitsProcessor",
    "model_executor.layers.quantization.utils.quant_utils": "get_and_maybe_dequant_weights",
    "model_executor.layers.vocab_parallel_embedding": "ParallelLMHead VocabParallelEmbedding",
}
_MODEL = """
class Model(torch.nn.Module):
    packed_modules_mapping: dict[str, list[str]] = {packed}
    config = SimpleNamespace(architectures=["Model"])
    embedding_modules: dict[str, str] = {{}}
    supports_lora, is_3d_moe_weight, is_non_gated_moe = True, False, False
""".strip("\n")
_ADAPTER = """
def adapter(number: int) -> LoRAModel:
    weights = {{}}
    for name, (a, b, scaling) in ADAPTERS[number].items():
        rank, tensors = len(a), (a.clone(), b.clone())
        weights[name] = LoRALayerWeights(name, rank, rank, *tensors, scaling)
    return LoRAModel(number, {rank}, weights)
""".strip("\n")
_BY_THE_WORKER = """
        helper = PEFTHelper.from_local_dir(folder, None)
        modules = set(helper.target_modules)
        return LoRAModel.from_local_checkpoint(
            folder, modules, helper, lora_model_id=number, device="cpu"
        )
""".strip("\n")
_WORKER = (
    "worker: Any = object.__new__(LRUCacheWorkerLoRAManager)  # around this manager",
    "worker._adapter_manager = manager",
)
_MANAGER = '{}(model, 8, 8, 32, config, torch.device("cpu"), VllmConfig())'


class Vllm(Dialect):
    """For plain vLLM on a CPU, importing nothing of this project.

    Its manager is driven as its worker does: what is activated is looked up first, which counts as a use.
    """

    library = Library.VLLM
    suffix = "_vllm"
    impl = "vllm"
    names: ClassVar = {name: f"vllm.{module}" for module, names in _MODULES.items() for name in names.split()}
    fixture = "monkeypatch: pytest.MonkeyPatch"
    rank, size = "rank_in_group", "world_size"
    model = "Model()"
    wrapped = "BaseLayerWithLoRA"
    dense_weight = "get_and_maybe_dequant_weights(outer, torch.float32)"
    registered, active = "set(manager.list_adapters())", "set(manager.lora_index_to_id) - {None}"
    methods: ClassVar = {one: f"{one}_adapter" for one in ("add", "activate", "deactivate", "remove", "pin")}
    adapter = _ADAPTER
    saved: ClassVar = {"cls": "LoRAModel", "loaded": ", loaded as a worker does", "loading": _BY_THE_WORKER}
    loader = "set_lora"

    def patched(self, world: int, group: str, rank: str = "0") -> list[str]:
        if not world:
            return []
        made = [f"{group} = SimpleNamespace(world_size={world}, rank_in_group={rank})"] if group != "RANKS" else []
        return [*made, f'monkeypatch.setattr(parallel_state, "_TP", {group})']

    def settled(self, deployment: Deployment, clause: str, slots: Sequence[int]) -> Deployment:
        """One slot more, left empty, keeps vllm #48421 out of what other clauses show."""
        return replace(deployment, max_loras=deployment.max_loras + (clause != "MATH-3" and -1 in slots))

    def config(self, deployment: Deployment) -> str:
        given: dict[str, object] = {"max_loras": deployment.max_loras, "max_lora_rank": deployment.max_lora_rank}
        given |= {"fully_sharded_loras": True} if deployment.fully_sharded else {}
        return call("LoRAConfig", given | {"lora_dtype": deployment.dtype})

    def wrap(self, deployment: Deployment, function: str = "") -> list[str]:
        given = ["layer", str(deployment.max_loras), "config", one_line(deployment.packed_names), "None"]
        return [f"config = {self.config(deployment)}", call("lora: Any = from_layer", given)]

    def claimants(self, deployment: Deployment) -> list[str]:
        packed = f'"packed_modules_list": {one_line(deployment.packed_names)}'
        return [
            f"config = {self.config(deployment)}",
            f'asked = {{"source_layer": layer, "lora_config": config, {packed}, "model_config": None}}',
            "claimants = [one for one in _all_lora_classes if one.can_replace_layer(**asked)]",
        ]

    def load(self, slot: int, adapter: LayerAdapter) -> list[str]:
        """A tensor for a module named alone, lists for packed members; vLLM folds the scaling into B."""
        scaled = [None if part is None else part.lora_b * adapter.scaling for part in adapter.parts]
        tensors = [None if part is None else part.lora_a for part in adapter.parts]
        note = [] if adapter.scaling == 1 else [f"# LoRA B times the scaling, {adapter.scaling:g}"]
        if len(adapter.parts) == 1:
            return [*note, f"lora.set_lora({slot}, {tensor_text(tensors[0])}, {tensor_text(scaled[0])})"]
        return [*note, _listed("a", tensors), _listed("b", scaled), f"lora.set_lora({slot}, a, b)"]

    def load_dummies(self, deployment: Deployment, slots: Sequence[int], shards: int) -> list[str]:
        """As vLLM's manager makes them: with the sizes of what the layer holds."""
        given = "a, b" if deployment.packed else "a[0], b[0]"
        return [
            'manager: Any = SimpleNamespace(lora_config=config, modules={"layer": lora})',
            "dummy_rank = LoRAModelManager.get_dummy_lora_warmup_rank(manager, 8)",
            "a = [torch.zeros(dummy_rank, one.shape[-1]) for one in lora.lora_a_stacked]",
            "b = [torch.zeros(one.shape[-2], dummy_rank) for one in lora.lora_b_stacked]",
            *(f"lora.set_lora({slot}, {given})" for slot in slots),
        ]

    def select(self, deployment: Deployment, slots: tuple[int, ...]) -> list[str]:
        most, known = max(8, len(slots)), deployment.max_loras
        ids = one_line(tuple(slot + 1 for slot in slots))
        rest = f"is_prefill=False), {one_line(list(range(1, known + 1)))}, {known + 1}, 32)"
        named, mapped = [], f"punica.update_metadata(LoRAMapping({ids}, {ids}, {rest}"
        if len(mapped) > WIDTH:
            named = [f"ids = {ids}  # of each token's adapter; 0: none"]
            mapped = f"punica.update_metadata(LoRAMapping(ids, ids, {rest}"
        made = f'punica = get_punica_wrapper({most}, {most}, "cpu", lora_config=config)'
        return [made, "lora.set_mapping(punica)", *named, mapped]

    def model_class(self, packing: Mapping[str, Sequence[str]]) -> list[str]:
        return [_MODEL.format(packed="PACKED" if packing else "{}")]

    def targeting(self, targets: str, packing: Mapping[str, Sequence[str]]) -> tuple[str, str]:
        given = f"max_loras=1, max_lora_rank=8, lora_dtype=torch.float32, target_modules={targets}"
        return f"config = LoRAConfig({given})", _MANAGER.format("LoRAModelManager")

    def manager(self, play: Play, *, named: bool) -> list[str]:
        program = play.program
        if program.model.tower:
            raise CannotWrite("a tower with a token map of its own, which this project's trees alone have")
        if program.max_rank not in _MAX_RANKS:
            raise CannotWrite(f"vLLM's LoRAConfig takes no max_lora_rank of {program.max_rank}")
        config = [f"max_loras={program.max_loras}"] if program.max_loras > 1 else []
        config += [f"max_cpu_loras={program.max_adapters}"] if program.max_adapters > program.max_loras else []
        config += [f"max_lora_rank={program.max_rank}", "lora_dtype=torch.float32"]
        config += ["fully_sharded_loras=True"] if program.fully_sharded else []
        made = _MANAGER.format("LRUCacheLoRAModelManager" if program.evict else "LoRAModelManager")
        return [call("config = LoRAConfig", config), f"manager = {made}" if named else made]

    def mapped(self, play: Play, ids: tuple[int, ...]) -> list[str]:
        told = one_line(ids)
        return [f"manager.set_adapter_mapping(LoRAMapping({told}, {told}, is_prefill=False))"]

    def warmed_up(self, play: Play, lines: list[str]) -> list[str]:
        return [
            f"dummy_rank = manager.get_dummy_lora_warmup_rank({min(8, play.program.max_rank)})",
            "manager.add_adapter(manager.create_dummy_lora(99, dummy_rank, {}))",
            "manager.activate_adapter(99)",
            *self.mapped(play, (99,) * len(play.program.batches[0])),
            *lines,
        ]

    def added(self, identity: int) -> str:
        return f"adapter({identity})"

    def does(self, one: Call, *, looks: bool) -> list[str]:
        if one.method == "replace":
            number = one.number + 1
            return [
                *_WORKER,
                f"worker._load_adapter = lambda request: adapter({number})",
                f'worker.add_adapter(LoRARequest("anew", {number}, "anew", load_inplace=True))',
            ]
        looked = [f"manager.get_adapter({one.number + 1})  # its worker does, and that is a use"]
        used = one.method.startswith("activate") and looks
        return [*(looked if used else []), *super().does(one, looks=looks)]


def _listed(name: str, tensors: Sequence[Tensor | None]) -> str:
    """A list of tensors, those that are all alike written once."""
    texts = [tensor_text(tensor) for tensor in tensors]
    if len(set(texts)) == 1:
        return f"{name} = [{texts[0]}] * {len(texts)}"
    return f"{name} = [{', '.join(texts)}]"
