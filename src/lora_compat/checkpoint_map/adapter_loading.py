"""PEFT directories by the map: every tensor of the file is used or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_compat.checkpoint_map.adapter_names import AdapterNames, Named
from lora_compat.checkpoint_map.adapter_tensors import Fitting
from lora_compat.checkpoint_map.factors import Factor, TensorDelta, factors_of
from lora_compat.checkpoint_map.maps import CheckpointMap
from lora_compat.errors import AdapterFormatError, LoRAError
from lora_compat.peft_config import PeftConfig
from lora_compat.peft_loading import LoRAPair, pairs_in, read_config, read_tensors


class NotMovedError(LoRAError):
    """An adapter of a checkpoint tensor that the model's loader does not move, or not all of."""

    def __init__(self, adapter: object, module: str, tensor: str, why: str) -> None:
        super().__init__(
            f"adapter {str(adapter)!r} adapts {module!r}, but {why} of {tensor!r}; it would be served in part, or not "
            "at all. Merge it into the checkpoint instead."
        )
        self.module, self.tensor = module, tensor


@dataclass(frozen=True, slots=True, eq=False)
class AdapterFactors:
    """An adapter on this rank: what it adds to each parameter that it changes."""

    factors: Mapping[str, tuple[Factor, ...]]
    source: str


def load_factors(path: str | Path, found: CheckpointMap, *, ranks: Sequence[CheckpointMap] = ()) -> AdapterFactors:
    """The adapter in a directory that PEFT's ``save_pretrained`` wrote, as what it adds to the model's parameters.

    Args:
        found: this rank's map.
        ranks: the maps of all ranks, this one's too; unless given, this rank is taken to hold everything.

    Raises:
        AdapterFormatError: no such directory, a damaged file, tensors whose place or orientation cannot be told, or
            an adapter that needs more than LoRA A, LoRA B and a scaling.
        UnknownModulesError: a module that is nothing in the checkpoint.
        NotMovedError: a tensor that the loader computes from, skips or moves in part.
    """
    directory = Path(path)
    try:
        data = read_config(directory)
        config = PeftConfig.of(data, served=("target_parameters",))
        fitting = Fitting(found.shapes, config, fan_in_fan_out=bool(data.get("fan_in_fan_out")))
        deltas = _deltas(pairs_in(read_tensors(directory)), found, fitting, str(path))
    except ValueError as error:
        raise AdapterFormatError(path, str(error)) from error
    for delta in deltas:
        _require_moved(delta, ranks or (found,), str(path))
    factors = {
        name: tuple(factor for delta in deltas for factor in factors_of(one, delta))
        for name, one in found.parameters.items()
    }
    return AdapterFactors({name: some for name, some in factors.items() if some}, str(path))


def _deltas(pairs: Mapping[str, LoRAPair], found: CheckpointMap, fitting: Fitting, source: str) -> list[TensorDelta]:
    if not pairs:
        raise ValueError("it has no LoRA tensors")
    names = AdapterNames(found, pairs, source)
    together: dict[Named, dict[str, LoRAPair]] = {}
    for module, pair in pairs.items():
        together.setdefault(names.find(module), {})[module] = pair
    deltas = [delta for named, some in together.items() for delta in fitting.deltas(named, some)]
    taken: dict[tuple[str, bool], str] = {}
    for delta in deltas:
        other = taken.setdefault((delta.tensor, delta.looked_up), delta.module)
        if other != delta.module:
            raise ValueError(f"{other!r} and {delta.module!r} are the same weights")
    return deltas


def _require_moved(delta: TensorDelta, ranks: Sequence[CheckpointMap], source: str) -> None:
    """Every element of the tensor is on some rank."""
    info = ranks[0].shapes[delta.tensor]
    pieces = [piece for one in ranks for _, piece in one.places(delta.tensor)]
    if not pieces:
        raise NotMovedError(source, delta.module, delta.tensor, "the model's loader keeps no element as it was")
    rows = torch.zeros(len(pieces), info.rows, dtype=torch.bool)
    columns = torch.zeros(len(pieces), info.columns, dtype=torch.bool)
    for index, piece in enumerate(pieces):
        rows[index, piece.rows.tensor()] = True
        columns[index, piece.columns.tensor()] = True
    # Rows, and columns, that are in the same pieces are alike, so it takes no look at every element.
    there = torch.einsum("pr,pc->rc", rows.unique(dim=1).float(), columns.unique(dim=1).float())
    if bool((there == 0).any()):
        lost = int((~rows.any(0)).sum()), int((~columns.any(0)).sum())
        why = f"the model's loader moves {lost[0]} rows and {lost[1]} columns to no place"
        raise NotMovedError(source, delta.module, delta.tensor, why if any(lost) else "a part goes to no place")


__all__ = ["AdapterFactors", "NotMovedError", "load_factors"]
