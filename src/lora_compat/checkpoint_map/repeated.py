"""Weights of the base model in an adapter file: PEFT repeats them there, and those who train them save them there."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lora_compat.checkpoint_map.adapter_names import AdapterNames
from lora_compat.checkpoint_map.maps import CheckpointMap
from lora_compat.peft_loading import PREFIX


def require_repeated(
    key: str, tensor: Tensor, names: AdapterNames, found: CheckpointMap, parameters: Mapping[str, Tensor]
) -> None:
    """Raises `ValueError` where a tensor that is no LoRA weight is not what the model holds already."""
    module, _, last = key.removeprefix(PREFIX).rpartition(".")
    name = names.tensor_of(module) if last == "weight" else None
    if name is None or tuple(tensor.shape) != found.shapes[name].shape:
        raise ValueError(f"{key} {tuple(tensor.shape)} is no LoRA weight, and no weight of the base model")
    places = list(found.places(name))
    if not all(piece.holds(parameters[one], tensor.to(parameters[one].dtype)) for one, piece in places):
        raise ValueError(
            f"{key} is no LoRA weight, and not what the base model has: it was trained. Merge the adapter into the "
            "checkpoint instead"
        )
