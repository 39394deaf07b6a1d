"""Weights of the base model in an adapter file: PEFT repeats them there, and those who train them save them there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from lora_compat.checkpoint_map.adapter_names import AdapterNames
from lora_compat.checkpoint_map.factors import TensorDelta
from lora_compat.checkpoint_map.maps import CheckpointMap
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.peft_config import UnservedFeature
from lora_compat.peft_loading import PREFIX


def held_whole(
    key: str,
    tensor: Tensor,
    names: AdapterNames,
    maps: Sequence[CheckpointMap],
    parameters: Mapping[str, Tensor],
    saved: Collection[str],
) -> TensorDelta | None:
    """What a tensor that is no LoRA weight adds to the base model's; None where that is what the model holds already.

    A matrix of the modules ``saved`` (PEFT's ``modules_to_save``) that every rank has whole and under one name, as
    heads that classify are, is the base's and a difference, whose rank is its rows or columns, whichever are fewer.

    Args:
        maps: of all ranks, this one's first.

    Raises:
        ValueError: it is no weight of the base model, or one that was trained and cannot be told apart like that.
    """
    module, _, last = key.removeprefix(PREFIX).rpartition(".")
    name, found = names.tensor_of(module, last), maps[0]
    if name is None or tuple(tensor.shape) != found.shapes[name].shape:
        raise ValueError(f"{key} {tuple(tensor.shape)} is no LoRA weight, and no weight that the base model has")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{key} has numbers that are infinite or not a number")
    if all(piece.holds(parameters[one], tensor.to(parameters[one].dtype)) for one, piece in found.places(name)):
        return None
    of_saved = any(f".{one}." in f".{module}." for one in saved)
    places = [_alone(one, name) for one in maps]
    if of_saved and tensor.dim() == 2 and places[0] is not None and None not in places:
        parameter, piece = places[0]
        return _difference(name, module, tensor, piece, parameters[parameter])
    kind = UnservedFeature if of_saved else ValueError
    option = f" (modules_to_save={sorted(saved)})" if of_saved else ""
    raise kind(
        f"{key} is no LoRA weight, and not what the base model has: it was trained{option}. Merge the adapter into "
        "the checkpoint instead"
    )


def _alone(found: CheckpointMap, name: str) -> tuple[str, Piece] | None:
    """The one parameter of a rank that has a tensor, all of it; None where it has several, as tied ones do."""
    info, places = found.shapes[name], list(found.places(name))
    tied = {*found.same, *found.same.values()}
    if len(places) != 1 or places[0][0] in tied or places[0][1].elements != info.rows * info.columns:
        return None
    return places[0]


def _difference(name: str, module: str, tensor: Tensor, piece: Piece, parameter: Tensor) -> TensorDelta:
    base = torch.empty_like(tensor, dtype=torch.float64)
    plane = piece.plane(tuple(parameter.shape))
    block = plane.lines_of(parameter.data, piece.target.tensor()).double().to(base.device)
    base[piece.rows.tensor()[:, None], piece.columns.tensor()] = block
    difference = (tensor.double() - base).float()
    rows, columns = difference.shape
    lora_a, lora_b = (difference, torch.eye(rows)) if rows <= columns else (torch.eye(columns), difference)
    return TensorDelta(name, module, lora_a[None], lora_b[None], 1.0, whole=True)
