"""The words of plain vLLM on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from conformance.test_files.dialects import Dialect
from conformance.test_files.literals import WIDTH, call, one_line, tensor_text
from conformance.test_files.scenes import WARMED, Scene
from lora_compat.adapters import LayerAdapter
from strategies.source import Library


class Vllm(Dialect):
    """For plain vLLM on a CPU, importing nothing of this project."""

    library = Library.VLLM
    suffix = "_vllm"
    impl = "vllm"
    rank, size = "rank_in_group", "world_size"

    def reason_against(self, scene: Scene) -> str | None:
        if scene.case.quantization.value != "none":
            return "the quantization of the base layer is this project's own"
        return super().reason_against(scene)

    def imports(self, scene: Scene) -> set[str]:
        lines = {
            "from vllm.config.lora import LoRAConfig",
            "from vllm.distributed import parallel_state",
        }
        if scene.asks_claimants:
            lines.add("from vllm.lora.utils import _all_lora_classes")
        else:
            lines.add("from vllm.lora.utils import from_layer")
        if scene.only_wraps:
            lines.add("from vllm.lora.layers import BaseLayerWithLoRA")
        if scene.runs:
            lines.add("from vllm.lora.layers import LoRAMapping")
            lines.add("from vllm.lora.punica_wrapper import get_punica_wrapper")
        if scene.clause in WARMED:
            lines.add("from vllm.lora.model_manager import LoRAModelManager")
        if scene.unwraps:
            module = "vllm.model_executor.layers.quantization.utils.quant_utils"
            lines.add(f"from {module} import get_and_maybe_dequant_weights")
        return lines

    def wrap(self, scene: Scene) -> list[str]:
        case = scene.case
        lines = self._config(scene)
        names = one_line([f"part_{index}" for index in range(len(case.packed))])
        return [*lines, call("lora: Any = from_layer", ["layer", str(self.slots(scene)), "config", names, "None"])]

    def _config(self, scene: Scene) -> list[str]:
        case = scene.case
        config = [f"max_loras={self.slots(scene)}", f"max_lora_rank={case.max_rank}"]
        if case.fully_sharded:
            config.append("fully_sharded_loras=True")
        return [call("config = LoRAConfig", [*config, f"lora_dtype=torch.{case.dtype.of_tensors}"])]

    def slots(self, scene: Scene) -> int:
        """The slots of the layer; one more, left empty, keeps vllm #48421 out of what other clauses show."""
        spare = scene.clause != "MATH-3" and -1 in scene.slots
        return scene.case.max_loras + spare

    def wrapped(self) -> str:
        return "isinstance(lora, BaseLayerWithLoRA)"

    def claimants(self, scene: Scene) -> list[str]:
        names = one_line([f"part_{index}" for index in range(len(scene.case.packed))])
        arguments = [
            '"source_layer": layer',
            '"lora_config": config',
            f'"packed_modules_list": {names}',
            '"model_config": None',
        ]
        return [
            *self._config(scene),
            f"asked = {{{', '.join(arguments)}}}",
            "claimants = [one for one in _all_lora_classes if one.can_replace_layer(**asked)]",
        ]

    def load(self, scene: Scene, slot: int, adapter: LayerAdapter) -> list[str]:
        """A tensor for a module named alone, lists for packed members; vLLM folds the scaling into B."""
        scaled = [None if part is None else part.lora_b * adapter.scaling for part in adapter.parts]
        tensors = [None if part is None else part.lora_a for part in adapter.parts]
        note = [] if adapter.scaling == 1 else [f"# LoRA B times the scaling, {adapter.scaling:g}"]
        if len(adapter.parts) == 1:
            given = [tensor_text(tensors[0]), tensor_text(scaled[0])]
            return [*note, call("lora.set_lora", [str(slot), *given])]
        return [*note, *_listed("a", tensors), *_listed("b", scaled), f"lora.set_lora({slot}, a, b)"]

    def load_dummies(self, scene: Scene) -> list[str]:
        """As vLLM's manager makes them: with the sizes of what the layer holds."""
        a, b = ("a", "b") if scene.case.packed else ("a[0]", "b[0]")
        return [
            'manager: Any = SimpleNamespace(lora_config=config, modules={"layer": lora})',
            "dummy_rank = LoRAModelManager.get_dummy_lora_warmup_rank(manager, 8)",
            "a = [torch.zeros(dummy_rank, one.shape[-1]) for one in lora.lora_a_stacked]",
            "b = [torch.zeros(one.shape[-2], dummy_rank) for one in lora.lora_b_stacked]",
            *(f"lora.set_lora({spec.slot}, {a}, {b})" for spec in scene.case.adapters),
        ]

    def select(self, scene: Scene, slots: tuple[int, ...]) -> list[str]:
        most, known = max(8, len(slots)), self.slots(scene)
        ids = one_line(tuple(slot + 1 for slot in slots))
        rest = [one_line(list(range(1, known + 1))), str(known + 1), "32"]
        lines = [call("punica.update_metadata", [f"LoRAMapping({ids}, {ids}, is_prefill=False)", *rest])]
        if len(lines[0]) > WIDTH:
            mapped = call("punica.update_metadata", ["LoRAMapping(ids, ids, is_prefill=False)", *rest])
            lines = [f"ids = {ids}  # of each token's adapter; 0: none", mapped]
        return [
            f'punica = get_punica_wrapper({most}, {most}, "cpu", lora_config=config)',
            "lora.set_mapping(punica)",
            *lines,
        ]

    def dense_weight(self) -> str:
        return "get_and_maybe_dequant_weights(outer, torch.float32)"


def _listed(name: str, tensors: Sequence[Tensor | None]) -> list[str]:
    """A list of tensors, those that are all alike written once."""
    texts = [tensor_text(tensor) for tensor in tensors]
    if len(set(texts)) == 1:
        return [f"{name} = [{texts[0]}] * {len(texts)}"]
    return [f"{name} = [{', '.join(texts)}]"]
