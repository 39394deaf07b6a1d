"""Adapters from PEFT directories: ``adapter_config.json`` and ``adapter_model.safetensors``.

What PEFT would compute is what is served; a feature that would need more than LoRA A, LoRA B and a scaling is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lora_compat.errors import AdapterFormatError, AmbiguousAdapterError, UnservedFeatureError
from lora_compat.model_adapters import Adapter, ModuleAdapter
from lora_compat.peft_config import CONFIG_FILE, PeftConfig, UnservedFeature

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
PREFIX = "base_model.model."
# Of an embedding PEFT saves parameters, not modules, under a name of their own.
_TENSOR = re.compile(r"(?P<module>.+)\.lora_((?P<kind>[AB])\.weight|embedding_(?P<looked_up>[AB]))")


@dataclass(frozen=True, slots=True, eq=False)
class LoRAPair:
    """A and B of one module as they are in the file; ``looked_up`` says that they are an embedding's."""

    lora_a: Tensor
    lora_b: Tensor
    looked_up: bool


def load_adapter(path: str | Path) -> Adapter:
    """The adapter in a directory that PEFT's ``save_pretrained`` wrote, on the CPU, in the dtypes it was saved in.

    Raises:
        AdapterFormatError: no such directory, a file that is missing or damaged, a config that lacks a key, or an
            adapter that needs more than LoRA A, LoRA B and a scaling.
    """
    directory = Path(path)
    try:
        config = PeftConfig.of(read_config(directory))
        return Adapter(_paired(read_tensors(directory), config), source=str(path))
    except ValueError as error:
        raise refusal(path, error) from error


def refusal(path: str | Path, error: ValueError) -> AdapterFormatError:
    """The error that says what is wrong with an adapter."""
    kinds = {UnservedFeature: UnservedFeatureError, Ambiguity: AmbiguousAdapterError}
    return kinds.get(type(error), AdapterFormatError)(path, str(error))


class Ambiguity(ValueError):
    """Tensors that fit in several ways, or in none."""


def read_config(directory: Path) -> Mapping[str, Any]:
    """What ``adapter_config.json`` holds.

    Raises:
        ValueError: no such directory or file, or no JSON object in it.
    """
    if not directory.is_dir():
        kind = "a file" if directory.exists() else "no such directory"
        raise ValueError(f"{kind}; an adapter is a directory with {CONFIG_FILE} and {WEIGHTS_FILE}")
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"it has no {CONFIG_FILE}, so it is no PEFT adapter")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{CONFIG_FILE} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{CONFIG_FILE} holds {type(data).__name__}, not an object")
    return data


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """What ``adapter_model.safetensors`` holds, or ``adapter_model.bin`` where older PEFT wrote that, on the CPU.

    Raises:
        ValueError: no such file, or it is damaged; a ``.bin`` that has more than tensors in it is not unpickled.
    """
    # Optional: only those who read adapters from files need it.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file, pickled = directory / WEIGHTS_FILE, directory / PICKLED_FILE
    if not file.is_file() and not pickled.is_file():
        raise ValueError(f"it has no {WEIGHTS_FILE}")
    name = file.name if file.is_file() else pickled.name
    try:
        tensors = load_file(file) if file.is_file() else torch.load(pickled, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, UnpicklingError, RuntimeError, EOFError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{name} cannot be read, it is damaged or cut short: {said}") from error
    if not isinstance(tensors, dict) or not all(isinstance(one, Tensor) for one in tensors.values()):
        raise ValueError(f"{name} holds something else than tensors by name")
    return tensors


def _paired(tensors: Mapping[str, Tensor], config: PeftConfig) -> dict[str, ModuleAdapter]:
    """A and B of each module, with the rank that the config promises."""
    modules = {}
    for module, pair in sorted(pairs_in(tensors).items()):
        rank = config.rank_of(module)
        if (pair.lora_a.shape[0], pair.lora_b.shape[1]) != (rank, rank):
            raise ValueError(
                f"module {module!r}: expected rank {rank} ({CONFIG_FILE}), received lora_A "
                f"{tuple(pair.lora_a.shape)} and lora_B {tuple(pair.lora_b.shape)}"
            )
        modules[module] = ModuleAdapter(pair.lora_a, pair.lora_b, config.scaling_of(module))
    return modules


def is_lora(name: str) -> bool:
    """Whether a tensor of a file is LoRA A or B of something, by its name."""
    return _TENSOR.fullmatch(name.removeprefix(PREFIX)) is not None or ".lora_" in name


def pairs_in(tensors: Mapping[str, Tensor]) -> dict[str, LoRAPair]:
    """A and B of each module, as PEFT names it.

    Raises:
        ValueError: a name or a shape is none that PEFT gives to LoRA weights, half of a pair is missing, or a number
            is not finite.
    """
    found: dict[str, dict[str, Tensor]] = {}
    looked_up: dict[str, bool] = {}
    unknown = []
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name.removeprefix(PREFIX))
        if match is None or tensor.dim() != 2 or not tensor.is_floating_point():
            unknown.append(f"{name} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
            continue
        module, kind = match["module"], match["kind"] or match["looked_up"]
        pair = found.setdefault(module, {})
        if kind in pair or looked_up.setdefault(module, match["kind"] is None) != (match["kind"] is None):
            raise ValueError(f"module {module!r} has LoRA weights as a linear layer and as an embedding")
        pair[kind] = tensor
    if unknown:
        raise ValueError(
            f"{WEIGHTS_FILE} has tensors that are no LoRA weights of a linear layer or an embedding: "
            f"{', '.join(unknown)}; expected are {PREFIX}<module>.lora_A.weight and .lora_B.weight, or "
            ".lora_embedding_A and .lora_embedding_B, of two dimensions"
        )
    for module, pair in sorted(found.items()):
        if len(pair) < 2:
            raise ValueError(f"module {module!r} has lora_{next(iter(pair))} alone, its other half is missing")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in pair.values()):
            raise ValueError(f"module {module!r} has LoRA weights that are infinite or not a number")
    return {module: LoRAPair(pair["A"], pair["B"], looked_up[module]) for module, pair in found.items()}
