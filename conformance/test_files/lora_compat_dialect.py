"""The words of `lora_compat`."""

from __future__ import annotations

from conformance.test_files.construction import quant_method
from conformance.test_files.dialects import Dialect
from conformance.test_files.literals import WIDTH, Expression, call, one_line, tensor_text
from conformance.test_files.scenes import DEQUANTIZING, WARMED, Scene
from lora_compat.adapters import LayerAdapter
from strategies.cases import Quantization
from strategies.source import Library


class LoraCompat(Dialect):
    """For `lora_compat`."""

    library = Library.LORA_COMPAT
    suffix = ""
    impl = "reference"
    context = "tensor_parallel(RANKS)"
    rank, size = "rank", "size"

    def imports(self, scene: Scene) -> set[str]:
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
        names |= {"dummy_adapter", "warmup_rank"} if scene.clause in WARMED else set()
        names |= {"LoRAError"} if scene.clause in DEQUANTIZING else set()
        lines = {f"from lora_compat import {', '.join(names)}"}
        if scene.case.quantization is not Quantization.NONE:
            lines.add(f"from lora_compat.quantization import QuantConfig, {quant_method(scene.case)[0]}")
        return lines

    def wrap(self, scene: Scene) -> list[str]:
        case = scene.case
        config: dict[str, object] = {"max_loras": case.max_loras, "max_lora_rank": case.max_rank}
        if case.fully_sharded:
            config["fully_sharded_loras"] = True
        told = call("LoRAConfig", config)
        together = f"lora: Any = wrap_layer(layer, {told})"
        return [together] if len(together) <= WIDTH else [f"config = {told}", "lora: Any = wrap_layer(layer, config)"]

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
            lines.append(call(f"{name} = SubAdapter", [tensor_text(part.lora_a), tensor_text(part.lora_b)]))
            names.append(name)
        parts = [Expression(name) for name in names]
        whole = one_line(tuple(parts))
        return [*lines, f"lora.set_lora({slot}, LayerAdapter({whole}, scaling={adapter.scaling!r}))"]

    def load_dummies(self, scene: Scene) -> list[str]:
        case = scene.case
        shards = case.layer_tp_size if case.fully_sharded else 1
        given = [f"max_lora_rank={case.max_rank}", f"shards=({shards},)"]
        loads = [f"lora.set_lora({spec.slot}, dummy_adapter(lora, dummy_rank))" for spec in case.adapters]
        return [call("dummy_rank = warmup_rank", given), *loads]

    def select(self, scene: Scene, slots: tuple[int, ...]) -> list[str]:
        return [f"lora.set_batch(TokenBatch.of({one_line(slots)}))"]

    def dense_weight(self) -> str:
        return "dense_weight(outer)"
