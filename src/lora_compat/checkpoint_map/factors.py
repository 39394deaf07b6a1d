"""Adapters by the map: rows of B go where the rows of W went, columns of A where the columns of W went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from lora_compat.checkpoint_map.maps import CheckpointMap
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.errors import LoRAError
from lora_compat.model_adapters import Adapter, ModuleAdapter


class TensorNotServed(LoRAError):
    """A tensor of an adapter that can go nowhere by the map; the message says which, and why."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """What one module of an adapter adds to one block of a parameter: ``scaling · lora_b · lora_a``, there.

    ``lora_b`` is ``[rows of the block, rank]`` and ``lora_a`` ``[rank, columns of the block]``; where
    ``piece.transposed``, the parameter's last dimension has the rows.
    """

    module: str
    piece: Piece
    lora_a: Tensor
    lora_b: Tensor
    scaling: float


def factors(found: CheckpointMap, adapter: Adapter) -> Mapping[str, tuple[Factor, ...]]:
    """The factors of each parameter that ``adapter`` changes on this rank; those without any are left out.

    Nothing is declared: ``<module>.weight`` is a tensor of the checkpoint, and the map knows where that went, as often
    as it went there.

    Raises:
        TensorNotServed: a module has no such tensor, or one that does not fit, or was not moved.
    """
    given: dict[str, list[Factor]] = {}
    for module, part in adapter.modules.items():
        places = list(found.places(f"{module}.weight"))
        if not places:
            raise TensorNotServed(_why_not(found, module))
        info = found.shapes[f"{module}.weight"]
        a, b = _of_weight(module, part, (info.rows, info.columns))
        for parameter, piece in places:
            block = Factor(module, piece, a[:, piece.columns.tensor()], b[piece.rows.tensor()], part.scaling)
            given.setdefault(parameter, []).append(block)
    return {parameter: tuple(each) for parameter, each in given.items()}


def delta(found: CheckpointMap, parameter: str, given: tuple[Factor, ...]) -> Tensor:
    """What factors add to a parameter, dense, in float64."""
    whole = torch.zeros(found.parameters[parameter].shape, dtype=torch.float64)
    for one in given:
        one.piece.place(one.scaling * (one.lora_b.double() @ one.lora_a.double()), whole)
    return whole


def _of_weight(module: str, part: ModuleAdapter, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A and B for a weight ``[rows, columns]``; of an embedding PEFT has them the other way round."""
    a, b = (part.lora_b.t(), part.lora_a.t()) if part.embedding else (part.lora_a, part.lora_b)
    if (b.shape[0], a.shape[1]) != shape:
        raise TensorNotServed(
            f"{module!r}: LoRA A {tuple(part.lora_a.shape)} and B {tuple(part.lora_b.shape)} are not of the "
            f"checkpoint's weight {shape}"
        )
    return a, b


def _why_not(found: CheckpointMap, module: str) -> str:
    name = f"{module}.weight"
    if name in found.unmoved:
        return f"{module!r}: the loader does not move {name!r}, it skips it or computes something of it"
    known = sorted(one.removesuffix(".weight") for one in found.shapes if one.endswith(".weight"))
    near = get_close_matches(module, known, n=3, cutoff=0.0)
    return f"{module!r}: the checkpoint has no {name!r}; the nearest modules are {', '.join(near)}"


def unserved(found: CheckpointMap, adapter: Adapter) -> Iterator[str]:
    """Why each module of ``adapter`` that cannot be served is not; nothing where all can."""
    for module, part in adapter.modules.items():
        try:
            factors(found, Adapter({module: part}))
        except TensorNotServed as error:
            yield str(error)
