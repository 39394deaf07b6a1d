"""What vLLM declares of a model's checkpoint for LoRA, beside what the model's loader does with it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_compat.checkpoint_map import CheckpointMap, ParameterMap, Piece


@dataclass(slots=True, eq=False)
class Declarations:
    """How vLLM finds the LoRA layer of a module of an adapter: by mapper, packed lists and lists of embeddings.

    Nothing is read off the code here: vLLM's own functions are called.
    """

    model: Any
    _layers: dict[str, Any] = field(init=False)
    _packed: Mapping[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        utils = importlib.import_module("vllm.lora.utils")
        supported = utils.get_supported_lora_modules(self.model)
        self._packed = utils.process_packed_modules_mapping(self.model)
        self._layers = {
            name: module
            for name, module in self.model.named_modules()
            if utils.is_supported_lora_module(name, module, supported)
        }

    def name_of(self, module: str) -> str:
        """What vLLM makes of a name in an adapter file."""
        mapper: Any = getattr(self.model, "hf_to_vllm_mapper", None)
        renames = mapper.get_rename_mapper() if hasattr(mapper, "get_rename_mapper") else mapper
        parse = importlib.import_module("vllm.lora.utils").parse_fine_tuned_lora_name
        name: str = parse(f"base_model.model.{module}.lora_A.weight", renames)[0]
        return name

    def layer_of(self, module: str) -> str | None:
        """The LoRA layer that a module of an adapter is loaded into, None for none."""
        name = self.name_of(module)
        if name in self._layers:
            return name
        return next((layer for layer in self._layers if name in self.members(layer)), None)

    def members(self, layer: str) -> list[str]:
        """The modules that a LoRA layer is declared to be packed of."""
        prefix, dot, last = layer.rpartition(".")
        return [prefix + dot + one for one in self._packed.get(last, ())]

    def owner_of(self, parameter: str) -> str | None:
        """The LoRA layer that a parameter is of, None where it is of no module that can be one."""
        parts = parameter.split(".")
        names = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
        return next((name for name in names if name in self._layers), None)


def contradictions(found: CheckpointMap, declared: Declarations) -> Iterator[str]:
    """What the loader does with weights that adapters are made of, and the declarations say otherwise, on one rank."""
    placed: dict[str, set[str]] = {}
    for name, parameter in found.parameters.items():
        if name in found.same or len(parameter.shape) < 2:
            continue
        layer = declared.owner_of(name)
        if layer is not None:
            for tensor in parameter.tensors:
                placed.setdefault(tensor, set()).add(layer)
            yield from _order(parameter, layer, declared)
    for tensor, layers in placed.items():
        module = tensor.removesuffix(".weight") if tensor.endswith(".weight") else tensor.rpartition(".")[0]
        target = declared.layer_of(module)
        for layer in sorted(layers - {target}):
            goes = (
                f"goes to {target}" if target else f"is {declared.name_of(module)} there, which reaches no LoRA layer"
            )
            yield f"{tensor} is loaded into {layer}; an adapter of it {goes}"


def _order(parameter: ParameterMap, layer: str, declared: Declarations) -> Iterator[str]:
    """Members in another order than they are declared, and rows that are moved within one."""
    pieces = sorted(parameter.pieces, key=lambda one: one.target.start)
    names = [declared.name_of(tensor.removesuffix(".weight")) for tensor in parameter.tensors]
    members = declared.members(layer)
    common = [name for name in members if name in names]
    if len(parameter.shape) == 2 and common != [name for name in names if name in members]:
        yield f"{parameter.name} is {', '.join(names)} in this order; {', '.join(members)} is declared"
    if len(parameter.shape) == 2 and len(members) > 1 and len(names) > 1 and len(names) != len(members):
        yield f"{parameter.name} is made of {len(names)} tensors ({', '.join(names)}); {len(members)} are declared"
    for tensor in parameter.tensors:
        mine = [piece for piece in pieces if piece.tensor == tensor]
        if len(parameter.shape) == 2 and (len(mine) > 1 or not _plain(mine[0])):
            yield f"{parameter.name} holds the rows of {tensor} in another order than LoRA B has them"


def _plain(piece: Piece) -> bool:
    return piece.target.is_slice and piece.rows.is_slice and piece.columns.is_slice and not piece.transposed
