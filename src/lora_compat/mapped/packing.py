"""What a packed-modules mapping says of a model, beside what the model's loader does."""

from __future__ import annotations

from collections.abc import Iterator

from lora_compat.checkpoint_map import CheckpointMap, ParameterMap
from lora_compat.errors import LoRAError
from lora_compat.targets import PackedModules, split_name


class PackedModulesError(LoRAError):
    """A packed-modules mapping that the model's own loader contradicts."""

    def __init__(self, layer: str, declared: str, loaded: str) -> None:
        super().__init__(
            f"packed_modules says that {layer!r} is {declared}, and the model's loader makes it of {loaded}; leave "
            "packed_modules out where a checkpoint map is given"
        )
        self.layer = layer


def require_agreeing(packed: PackedModules, found: CheckpointMap) -> None:
    """Raises `PackedModulesError` for the first layer whose rows are not those of the members that are declared."""
    stacks: dict[str, list[str]] = {}
    for name, parameter in found.parameters.items():
        layer = name.rpartition(".")[0]
        declared = [split_name(member)[1] for member in packed.members(layer)]
        if name in found.same or not parameter.pieces or not declared:
            continue
        loaded = list(dict.fromkeys(split_name(one.removesuffix(".weight"))[1] for one in parameter.tensors))
        if len(parameter.shape) == 3:
            stacks.setdefault(layer, []).extend(loaded)
        elif name.endswith(".weight") and len(parameter.shape) == 2 and loaded != [split_name(layer)[1]]:
            _require(layer, declared, loaded)
            moved = next(_moved(parameter), None)
            if moved:
                raise PackedModulesError(layer, f"{', '.join(declared)} one behind the other", moved)
    for layer, loaded in stacks.items():
        if any(f"{layer.rpartition('.')[2]}.0." in name for name in found.shapes):  # a tensor for each expert
            _require(layer, list(packed.projections(layer)), loaded)


def _require(layer: str, declared: list[str], loaded: list[str]) -> None:
    if declared != loaded:
        raise PackedModulesError(layer, ", ".join(declared), ", ".join(loaded))


def _moved(parameter: ParameterMap) -> Iterator[str]:
    """Tensors whose rows are not in their own order."""
    seen: set[str] = set()
    for piece in parameter.pieces:
        plain = piece.target.is_slice and piece.rows.is_slice and piece.columns.is_slice and not piece.transposed
        if not plain or piece.tensor in seen:
            yield f"the rows of {piece.tensor} in another order"
        seen.add(piece.tensor)
