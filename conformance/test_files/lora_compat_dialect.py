"""The words of `lora_compat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import lora_compat
from conformance.implementations.protocol import Deployment
from conformance.test_files.dialects import Dialect
from conformance.test_files.literals import WIDTH, Expression, call, indented, one_line, tensor_text
from conformance.test_files.plays import Play
from lora_compat import quantization
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.libraries import Library

_ADAPTER = """
def adapter(number: int) -> Adapter:
    modules = {{}}
    for name, (a, b, scaling) in ADAPTERS[number].items():
        modules[name] = ModuleAdapter(a.clone(), b.clone(), scaling)
    return Adapter(modules)
""".strip("\n")


class LoraCompat(Dialect):
    """For `lora_compat`."""

    library = Library.LORA_COMPAT
    suffix = ""
    impl = "reference"
    names: ClassVar = {
        **dict.fromkeys(quantization.__all__, "lora_compat.quantization"),
        **dict.fromkeys(lora_compat.__all__, "lora_compat"),
    }
    context = "tensor_parallel(RANKS)"
    rank, size = "rank", "size"
    model = "torch.nn.Module()"
    wrapped = "LoRALinear"
    dense_weight = "dense_weight(outer)"
    registered, active = "set(manager.registered)", "set(manager.active)"
    methods: ClassVar = {method: method for method in ("add", "activate", "deactivate", "remove", "pin", "replace")}
    adapter = _ADAPTER
    saved: ClassVar = {"cls": "Adapter", "loaded": "", "loading": "        return load_adapter(folder)"}
    loader = "slots.load"

    def config(self, deployment: Deployment) -> str:
        given = {"max_loras": deployment.max_loras, "max_lora_rank": deployment.max_lora_rank}
        return call("LoRAConfig", given | ({"fully_sharded_loras": True} if deployment.fully_sharded else {}))

    def wrap(self, deployment: Deployment, function: str = "wrap_layer") -> list[str]:
        config = self.config(deployment)
        together = f"lora: Any = {function}(layer, {config})"
        if len(together) <= WIDTH:
            return [together]
        return [f"config = {config}", f"lora: Any = {function}(layer, config)"]

    def claimants(self, deployment: Deployment) -> list[str]:
        return ["claimants = set(registry.families_in_any_order(type(layer)))"]

    def load(self, slot: int, adapter: LayerAdapter) -> list[str]:
        names = ["part"] if len(adapter.parts) == 1 else [f"part_{index}" for index in range(len(adapter.parts))]
        parts = {name: part for name, part in zip(names, adapter.parts, strict=True) if part is not None}
        lines = [f"{name} = {sub_adapter(part)}" for name, part in parts.items()]
        whole = one_line(tuple(Expression(name if name in parts else "None") for name in names))
        return [*lines, f"lora.set_lora({slot}, LayerAdapter({whole}, scaling={adapter.scaling!r}))"]

    def load_dummies(self, deployment: Deployment, slots: Sequence[int], shards: int) -> list[str]:
        rank = f"warmup_rank(max_lora_rank={deployment.max_lora_rank}, shards=({shards},))"
        loads = [f"lora.set_lora({slot}, dummy_adapter(lora, dummy_rank))" for slot in slots]
        return [f"dummy_rank = {rank}", *loads]

    def select(self, deployment: Deployment, slots: tuple[int, ...]) -> list[str]:
        return [f"lora.set_batch(TokenBatch.of({one_line(slots)}))"]

    def targeting(self, targets: str, packing: Mapping[str, Sequence[str]]) -> tuple[str, str]:
        given = ["model", "config", f"target_modules={targets}"]
        given += ["packed_modules=PackedModules(PACKED)"] if packing else []
        return "config = LoRAConfig(max_loras=1, max_lora_rank=8)", call("LoRAManager", given)

    def manager(self, play: Play, *, named: bool) -> list[str]:
        program = play.program
        config: dict[str, object] = {"max_loras": program.max_loras, "max_lora_rank": program.max_rank}
        config |= {"fully_sharded_loras": True} if program.fully_sharded else {}
        given = ["model", "config"]
        given += [f"max_adapters={program.max_adapters}"] if program.max_adapters != program.max_loras else []
        given += ["packed_modules=PackedModules(PACKED)"] if play.packing() else []
        given += [f"towers=({one_line(program.model.tower)},)"] if program.model.tower else []
        given += [] if program.evict else ["evict=False"]
        made = call("LoRAManager", given)
        return [call("config = LoRAConfig", config), f"manager = {made}" if named else made]

    def mapped(self, play: Play, ids: tuple[int, ...]) -> list[str]:
        told, tower = [one or None for one in ids], play.program.model.tower
        lines = [f"manager.map_tokens({one_line(told)})"]
        return [*lines, f"manager.map_tokens({one_line(told[::-1])}, tower={one_line(tower)})"] if tower else lines

    def warmed_up(self, play: Play, lines: list[str]) -> list[str]:
        tokens = len(play.program.batches[0])
        return [f"with manager.warmed_up({tokens}, default=8) as dummy_rank:", *indented(lines)]

    def added(self, identity: int) -> str:
        return f"{identity}, adapter({identity})"


def sub_adapter(part: SubAdapter) -> str:
    """An expression that makes it."""
    return call("SubAdapter", [tensor_text(part.lora_a), tensor_text(part.lora_b)])
