"""The two libraries a regression file can be for: what differs in imports, wrapping, loading and token maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from conformance.regressions.literals import call, one_line
from conformance.regressions.scenes import Scene
from lora_compat.adapters import LayerAdapter
from strategies.cases import Case
from strategies.source import Library

_RANKS = '''
class Ranks:
    """Stands in for the tensor-parallel group; every rank is a thread."""

    {size}, local, parts = {count}, threading.local(), [torch.empty(0)] * {count}
    barrier = threading.Barrier({count}, timeout=10)
    {rank} = property(lambda self: self.local.rank)

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
        self.parts[self.local.rank] = tensor.clone()
        self.barrier.wait()
        gathered = torch.cat(self.parts, dim)
        self.barrier.wait()
        return gathered

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.all_gather(tensor[None], 0).sum(0)


RANKS = Ranks()
'''


class Dialect(ABC):
    """One library's words."""

    library: ClassVar[Library]
    suffix: ClassVar[str]
    impl: ClassVar[str]  # the --impl that the file is about
    context: ClassVar[str | None] = None  # in which a layer is built as one of several ranks
    rank: ClassVar[str]
    size: ClassVar[str]

    def reason_against(self, scene: Scene) -> str | None:
        """Why no file can be written for this library, or None."""
        return "the class is an existing one, built by a recipe" if scene.case.subclass.target else None

    def ranks(self, case: Case) -> str:
        """The group of a case with several ranks."""
        return _RANKS.format(size=self.size, rank=self.rank, count=case.tp_size).strip("\n")

    @abstractmethod
    def imports(self, scene: Scene) -> tuple[set[str], list[str]]:
        """Import lines, sorted by the caller, and lines that must follow them."""

    @abstractmethod
    def wrap(self, scene: Scene) -> list[str]:
        """``lora``, from ``layer``."""

    @abstractmethod
    def wrapped(self) -> str:
        """An expression that is true of ``lora`` where it is a LoRA layer."""

    @abstractmethod
    def claimants(self, scene: Scene) -> list[str]:
        """``claimants``, all that would take ``layer``."""

    @abstractmethod
    def load(self, scene: Scene, slot: int, adapter: LayerAdapter) -> list[str]:
        """Puts an adapter into a slot of ``lora``."""

    @abstractmethod
    def select(self, scene: Scene, slots: tuple[int, ...]) -> list[str]:
        """Says which slot serves each token."""

    @abstractmethod
    def dense_weight(self) -> str:
        """The dense weight read through ``outer``."""


class LoraCompat(Dialect):
    """For `lora_compat`."""

    library = Library.LORA_COMPAT
    suffix = ""
    impl = "reference"
    context = "tensor_parallel(RANKS)"
    rank, size = "rank", "size"

    def imports(self, scene: Scene) -> tuple[set[str], list[str]]:
        names = {"LoRAConfig", "wrap_layer"}
        if scene.uses_adapters:
            names |= {"LayerAdapter", "SubAdapter"}
        if scene.runs:
            names.add("TokenBatch")
        names |= {"LoRALinear"} if scene.only_wraps else set()
        names |= {"dense_weight"} if scene.unwraps else set()
        names |= {"registry"} if scene.asks_claimants else set()
        names |= {"tensor_parallel"} if scene.case.tp_size > 1 else set()
        names -= {"LoRAConfig", "wrap_layer"} if scene.asks_claimants else set()
        listed = sorted(names, key=_isort)
        line = f"from lora_compat import {', '.join(listed)}"
        if len(line) > 88:
            line = "from lora_compat import (\n" + "".join(f"    {name},\n" for name in listed) + ")"
        return {line}, []

    def wrap(self, scene: Scene) -> list[str]:
        case = scene.case
        config: dict[str, object] = {"max_loras": case.max_loras, "max_lora_rank": case.max_rank}
        if case.fully_sharded:
            config["fully_sharded_loras"] = True
        return [*call("config = LoRAConfig(", config), "lora = wrap_layer(layer, config)"]

    def wrapped(self) -> str:
        return "isinstance(lora, LoRALinear)"

    def claimants(self, scene: Scene) -> list[str]:
        return ["claimants = set(registry.families_in_any_order(type(layer)))"]

    def load(self, scene: Scene, slot: int, adapter: LayerAdapter) -> list[str]:
        lines, names = [], []
        for index, part in enumerate(adapter.parts):
            if part is None:
                names.append("None")
                continue
            name = f"part_{index}" if len(adapter.parts) > 1 else "part"
            lines += call(f"{name} = SubAdapter(", [tensor_text(part.lora_a), tensor_text(part.lora_b)])
            names.append(name)
        parts = f"({', '.join(names)},)" if len(names) == 1 else f"({', '.join(names)})"
        return [*lines, *call(f"lora.set_lora({slot}, LayerAdapter(", [parts, f"scaling={adapter.scaling!r}"], "))")]

    def select(self, scene: Scene, slots: tuple[int, ...]) -> list[str]:
        return call("lora.set_batch(TokenBatch.of(", [one_line(slots)], "))")

    def dense_weight(self) -> str:
        return "dense_weight(outer)"


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

    def imports(self, scene: Scene) -> tuple[set[str], list[str]]:
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
        if scene.unwraps:
            lines.add(
                "from vllm.model_executor.layers.quantization.utils.quant_utils import (\n"
                "    get_and_maybe_dequant_weights,\n)"
            )
        return lines, []

    def wrap(self, scene: Scene) -> list[str]:
        case = scene.case
        lines = self._config(scene)
        names = one_line([f"part_{index}" for index in range(len(case.packed))])
        return [*lines, f"lora = from_layer(layer, {self.slots(scene)}, config, {names}, None)"]

    def _config(self, scene: Scene) -> list[str]:
        case = scene.case
        config = [f"max_loras={self.slots(scene)}", f"max_lora_rank={case.max_rank}"]
        if case.fully_sharded:
            config.append("fully_sharded_loras=True")
        return call("config = LoRAConfig(", [*config, f"lora_dtype=torch.{case.dtype.value}"])

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
            *call("asked = {", arguments, "}"),
            "claimants = [one for one in _all_lora_classes if one.can_replace_layer(**asked)]",
        ]

    def load(self, scene: Scene, slot: int, adapter: LayerAdapter) -> list[str]:
        """A tensor for a module named alone, lists for packed members; vLLM folds the scaling into B."""
        scaled = [None if part is None else part.lora_b * adapter.scaling for part in adapter.parts]
        tensors = [None if part is None else part.lora_a for part in adapter.parts]
        note = [] if adapter.scaling == 1 else [f"# LoRA B times the scaling, {adapter.scaling:g}"]
        if len(adapter.parts) == 1:
            given = [tensor_text(tensors[0]), tensor_text(scaled[0])]
            return [*note, *call("lora.set_lora(", [str(slot), *given])]
        lines = [*note, *call("a = [", list(map(tensor_text, tensors)), "]")]
        return [*lines, *call("b = [", list(map(tensor_text, scaled)), "]"), f"lora.set_lora({slot}, a, b)"]

    def select(self, scene: Scene, slots: tuple[int, ...]) -> list[str]:
        most, known = max(8, len(slots)), self.slots(scene)
        ids = tuple(slot + 1 for slot in slots)
        return [
            f'punica = get_punica_wrapper({most}, {most}, "cpu", lora_config=config)',
            "lora.set_mapping(punica)",
            f"ids = {one_line(ids)}  # of each token's adapter; 0: none",
            *call(
                "punica.update_metadata(",
                [
                    "LoRAMapping(ids, ids, is_prefill=False)",
                    one_line(list(range(1, known + 1))),
                    str(known + 1),
                    "32",
                ],
            ),
        ]

    def dense_weight(self) -> str:
        return "get_and_maybe_dequant_weights(outer, torch.float32)"


def tensor_text(tensor: Tensor | None) -> str:
    """An expression that makes the tensor; what is the same everywhere is said so."""
    if tensor is None:
        return "None"
    if tensor.numel() > 2 and bool((tensor.isnan()).all()):
        return f"torch.full({one_line(tuple(tensor.shape))}, torch.nan)"
    if not tensor.numel():
        return f"torch.empty({one_line(tuple(tensor.shape))})"
    return f"torch.tensor({one_line(tensor)})"


def _isort(name: str) -> tuple[bool, str]:
    return not name[0].isupper(), name
