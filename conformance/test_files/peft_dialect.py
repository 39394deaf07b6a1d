"""The words of PEFT on one layer of torch: a slot is an adapter by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from conformance.implementations.peft.hosting import LAYER, slot_name
from conformance.implementations.peft.implementation import rank_stabilised
from conformance.implementations.protocol import Deployment
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import call, indented, one_line, tensor_text
from lora_compat.adapters import LayerAdapter
from strategies.libraries import Library

_MODEL = f"""
class Model(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.{LAYER} = layer
""".strip("\n")
_TARGETS = f'target_modules=["{LAYER}"]'


def _no_form(self: Any, *arguments: Any, **options: Any) -> NoReturn:
    raise CannotWrite("of PEFT there are files about one linear layer alone; replay the case")


class Peft(Dialect):
    """For PEFT, importing nothing of this project; driven as its implementation here is."""

    library = Library.TORCH
    suffix = "_peft"
    impl = "peft"
    names: ClassVar = {
        **dict.fromkeys(("LoraConfig", "get_peft_model", "set_peft_model_state_dict"), "peft"),
        "LoraLayer": "peft.tuners.lora",
    }
    around = _MODEL
    rank, size = "rank", "size"
    model = registered = active = adapter = loader = ""
    wrapped = "LoraLayer"
    dense_weight = "outer.get_base_weight()"
    methods: ClassVar = {}
    saved: ClassVar = {}
    config = claimants = load_dummies = targeting = manager = mapped = warmed_up = added = _no_form

    def wrap(self, deployment: Deployment, function: str = "") -> list[str]:
        return [
            f"# PEFT wraps {LAYER} with a first adapter, which is not asked for.",
            f'model: Any = get_peft_model(Model(layer), LoraConfig({_TARGETS}), "first")',
            "model.requires_grad_(False)",
            f"lora: Any = model.base_model.model.{LAYER}",
        ]

    def load(self, slot: int, adapter: LayerAdapter) -> list[str]:
        (part,) = adapter.parts
        assert part is not None
        rslora = rank_stabilised(slot, part.rank)
        alpha = adapter.scaling * (math.sqrt(part.rank) if rslora else part.rank)
        given = [f"r={part.rank}", f"lora_alpha={alpha!r}", *(["use_rslora=True"] if rslora else []), _TARGETS]
        name, prefix = one_line(slot_name(slot)), f"base_model.model.{LAYER}"
        tensors = (
            f'"{prefix}.lora_{letter}.weight": {tensor_text(one)}'
            for letter, one in (("A", part.lora_a), ("B", part.lora_b))
        )
        return [
            call("model.add_adapter", [name, call("LoraConfig", given)]),
            f"tensors = {{{', '.join(tensors)}}}",
            f"set_peft_model_state_dict(model, tensors, {name})",
        ]

    def select(self, deployment: Deployment, slots: tuple[int, ...]) -> list[str]:
        every = {*slots}
        if every <= {-1}:
            return ["model.base_model.disable_adapter_layers()"]
        if len(every) == 1:
            return [f"model.set_adapter({one_line(slot_name(slots[0]))})"]
        return [f"slots = {one_line([slot_name(slot) for slot in slots])}  # of each token", *_NAMED]


_NAMED: Sequence[str] = (
    "def named(layer: Any, args: Any, options: Any) -> Any:",
    *indented(["return args, options | {'adapter_names': slots[:: len(slots) // len(args[0])]}"]),
    "lora.register_forward_pre_hook(named, with_kwargs=True)  # as PEFT's model does",
)
