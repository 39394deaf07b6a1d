"""PEFT directories by the map: every tensor of the file is used or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lora_compat.checkpoint_map.adapter_names import AdapterNames, Named
from lora_compat.checkpoint_map.adapter_tensors import Fitting
from lora_compat.checkpoint_map.expert_stacks import ExpertStack, stacks_of
from lora_compat.checkpoint_map.factors import Factor, TensorDelta, factors_of
from lora_compat.checkpoint_map.maps import CheckpointMap
from lora_compat.checkpoint_map.repeated import Held, held_whole
from lora_compat.errors import LoRAError
from lora_compat.parallel import SINGLE, TensorParallelGroup
from lora_compat.peft_config import PeftConfig, names_in
from lora_compat.peft_loading import LoRAPair, is_lora, pairs_in, read_config, read_tensors, refusal


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
    """An adapter on this rank: what it adds to each parameter that it changes, and to tensors of the checkpoint."""

    factors: Mapping[str, tuple[Factor, ...]]
    deltas: tuple[TensorDelta, ...]
    source: str


def load_factors(
    path: str | Path,
    found: CheckpointMap,
    *,
    ranks: Sequence[CheckpointMap] = (),
    parameters: Mapping[str, Tensor] | None = None,
    group: TensorParallelGroup = SINGLE,
) -> AdapterFactors:
    """The adapter in a directory that PEFT's ``save_pretrained`` wrote, as what it adds to the model's parameters.

    Args:
        found: this rank's map.
        ranks: the maps of all ranks, in their order; unless given, this rank is taken to hold everything.
        parameters: what the model holds. PEFT repeats weights of the base model in the file where embeddings are
            adapted; they are compared with these, and refused where nothing is given.
        group: that of the ranks, who tell each other whether their parts of such a weight are right.

    Raises:
        AdapterFormatError: no such directory, a damaged file, tensors whose place or orientation cannot be told, or
            an adapter that needs more than LoRA A, LoRA B and a scaling.
        UnknownModulesError: a module that is nothing in the checkpoint.
        NotMovedError: a tensor that the loader computes from, skips or moves in part.
    """
    base = None if parameters is None else Held(found, ranks or (found,), parameters, group)
    try:
        deltas = _read(Path(path), ranks or (found,), base)
    except ValueError as error:
        raise refusal(path, error) from error
    for delta in deltas:
        _require_moved(delta, ranks or (found,), str(path))
    factors = {
        name: tuple(factor for delta in deltas for factor in factors_of(one, delta))
        for name, one in found.parameters.items()
    }
    return AdapterFactors({name: some for name, some in factors.items() if some}, tuple(deltas), str(path))


def _read(directory: Path, maps: Sequence[CheckpointMap], base: Held | None) -> list[TensorDelta]:
    """What every tensor of the file adds, alike on every rank; those of the base model add what they differ in."""
    data, tensors = read_config(directory), read_tensors(directory)
    config = PeftConfig.of(data, served=("target_parameters", *(() if base is None else ("modules_to_save",))))
    targets, saved = names_in(data, "target_parameters"), names_in(data, "modules_to_save")
    stacks = stacks_of(maps[0].shapes, dict.fromkeys(one.rpartition(".")[2] for one in targets))
    shapes = {**maps[0].shapes, **{name: one.info for name, one in stacks.items()}}
    turned = bool(data.get("fan_in_fan_out"))
    fitting = Fitting(shapes, config, fan_in_fan_out=turned, parameters=targets)
    others = {key: one for key, one in tensors.items() if base is not None and not is_lora(key)}
    pairs = pairs_in({key: one for key, one in tensors.items() if key not in others})
    names = AdapterNames(maps, pairs, str(directory), stacks)
    deltas = _deltas(pairs, names, fitting, stacks)
    wholes = [held_whole(key, one, names, base, saved) for key, one in others.items() if base is not None]
    return _once_each([*deltas, *(one for one in wholes if one is not None)])


def _deltas(
    pairs: Mapping[str, LoRAPair], names: AdapterNames, fitting: Fitting, stacks: Mapping[str, ExpertStack]
) -> list[TensorDelta]:
    if not pairs:
        raise ValueError("it has no LoRA tensors")
    together: dict[Named, dict[str, LoRAPair]] = {}
    for module, pair in pairs.items():
        together.setdefault(names.find(module), {})[module] = pair
    fitted = [delta for named, some in together.items() for delta in fitting.deltas(named, some)]
    return [
        one for delta in fitted for one in (stacks[delta.tensor].deltas(delta) if delta.tensor in stacks else [delta])
    ]


def _once_each(deltas: list[TensorDelta]) -> list[TensorDelta]:
    """Raises `ValueError` where two modules of the file are the same weights."""
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
