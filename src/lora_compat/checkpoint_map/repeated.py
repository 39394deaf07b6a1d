"""Weights of the base model in an adapter file: PEFT repeats them there, and those who train them save them there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_compat.checkpoint_map.adapter_names import AdapterNames
from lora_compat.checkpoint_map.factors import TensorDelta
from lora_compat.checkpoint_map.maps import CheckpointMap
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.parallel import TensorParallelGroup
from lora_compat.peft_config import UnservedFeature
from lora_compat.peft_loading import PREFIX


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The base model: what this rank holds (``parameters``, by its map ``found``), and the ``maps`` of all in order.

    A rank sees its own part of a tensor alone, so ranks tell each other by the ``group`` what they found.
    """

    found: CheckpointMap
    maps: Sequence[CheckpointMap]
    parameters: Mapping[str, Tensor]
    group: TensorParallelGroup

    def has(self, name: str, tensor: Tensor) -> bool:
        """Whether every rank holds its part of a checkpoint tensor as ``tensor`` has it; alike on all.

        Raises:
            ValueError: there are several ranks, and the group is not theirs.
        """
        places = self.found.places(name)
        mine = all(piece.holds(self.parameters[one], tensor.to(self.parameters[one].dtype)) for one, piece in places)
        if all(_whole(one, name) for one in self.maps):
            return mine
        if self.group.size != len(self.maps):
            raise ValueError(
                f"{name} is in the file as a whole, and each of {len(self.maps)} ranks holds a part: to compare them, "
                f"make the manager inside tensor_parallel() of their group, not of {self.group.size}"
            )
        device = next(iter(self.parameters.values())).device
        return bool(self.group.all_gather(torch.tensor([float(mine)], device=device), dim=0).all())


def held_whole(
    key: str, tensor: Tensor, names: AdapterNames, base: Held, saved: Collection[str]
) -> TensorDelta | None:
    """What a tensor that is no LoRA weight adds to the base model's; None where that is what the model holds already.

    A matrix of the modules ``saved`` (PEFT's ``modules_to_save``) that every rank has whole and under one name, as
    heads that classify are, is the base's and a difference, whose rank is its rows or columns, whichever are fewer.

    Raises:
        ValueError: it is no weight of the base model, or one that was trained and cannot be told apart like that.
    """
    module, _, last = key.removeprefix(PREFIX).rpartition(".")
    name = names.tensor_of(module, last)
    if name is None or tuple(tensor.shape) != base.found.shapes[name].shape:
        raise ValueError(f"{key} {tuple(tensor.shape)} is no LoRA weight, and no weight that the base model has")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{key} has numbers that are infinite or not a number")
    if base.has(name, tensor):
        return None
    of_saved = any(f".{one}." in f".{module}." for one in saved)
    place = _alone(base.found, name)
    if of_saved and tensor.dim() == 2 and place is not None and all(_alone(one, name) for one in base.maps):
        parameter, piece = place
        return _difference(name, module, tensor, piece, base.parameters[parameter])
    kind = UnservedFeature if of_saved else ValueError
    option = f" (modules_to_save={sorted(saved)})" if of_saved else ""
    raise kind(
        f"{key} is no LoRA weight, and not what the base model has: it was trained{option}. Merge the adapter into "
        "the checkpoint instead"
    )


def _whole(found: CheckpointMap, name: str) -> bool:
    """Whether a rank has all of a tensor, wherever it has some of it."""
    info, pieces = found.shapes[name], [piece for _, piece in found.places(name)]
    return bool(pieces) and all(piece.elements == info.rows * info.columns for piece in pieces)


def _alone(found: CheckpointMap, name: str) -> tuple[str, Piece] | None:
    """The one parameter of a rank that has a tensor, all of it; None where it has several, as tied ones do."""
    places, tied = list(found.places(name)), {*found.same, *found.same.values()}
    return places[0] if len(places) == 1 and places[0][0] not in tied and _whole(found, name) else None


def _difference(name: str, module: str, tensor: Tensor, piece: Piece, parameter: Tensor) -> TensorDelta:
    base = torch.empty_like(tensor, dtype=torch.float64)
    plane = piece.plane(tuple(parameter.shape))
    block = plane.lines_of(parameter.data, piece.target.tensor()).double().to(base.device)
    base[piece.rows.tensor()[:, None], piece.columns.tensor()] = block
    difference = (tensor.double() - base).float()
    rows, columns = difference.shape
    lora_a, lora_b = (difference, torch.eye(rows)) if rows <= columns else (torch.eye(columns), difference)
    return TensorDelta(name, module, lora_a[None], lora_b[None], 1.0, whole=True)
