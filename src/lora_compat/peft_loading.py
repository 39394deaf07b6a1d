"""Adapters from PEFT directories: ``adapter_config.json`` and ``adapter_model.safetensors``.

What PEFT would compute is what is served; a feature that would need more than LoRA A, LoRA B and a scaling is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lora_compat.errors import AdapterFormatError
from lora_compat.model_adapters import Adapter, ModuleAdapter

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
T = TypeVar("T")
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>[AB])\.weight")
# Features that change the result by more than A, B and the scaling say, with the values that switch them off.
_UNSERVED: dict[str, tuple[object, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "layer_replication": ([],),
    "alora_invocation_tokens": ([],),
    "target_parameters": ([],),
    "trainable_token_indices": ([],),
    "use_qalora": (False,),
    "use_bdlora": (False, {}),
}
# Initialisations that leave the base model as it is; others (PiSSA, OLoRA, LoftQ, …) change it when PEFT loads them.
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The part of ``adapter_config.json`` that decides the numbers."""

    r: int
    lora_alpha: float
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> PeftConfig:
        """Checks ``data``.

        Raises:
            ValueError: a key is missing or ill-typed, or asks for what is not served.
        """
        if str(data.get("peft_type", "LORA")).upper() != "LORA":
            raise ValueError(f"peft_type is {data['peft_type']!r}, only 'LORA' is served")
        missing = [key for key in ("r", "lora_alpha") if key not in data]
        if missing:
            raise ValueError(f"{CONFIG_FILE} lacks {', '.join(map(repr, missing))}")
        _refuse_unserved(data)
        return cls(
            r=_rank("r", data["r"]),
            lora_alpha=_number("lora_alpha", data["lora_alpha"]),
            use_rslora=bool(data.get("use_rslora")),
            rank_pattern={key: _rank(f"rank_pattern[{key!r}]", rank) for key, rank in _pattern(data, "rank_pattern")},
            alpha_pattern={
                key: _number(f"alpha_pattern[{key!r}]", alpha) for key, alpha in _pattern(data, "alpha_pattern")
            },
        )

    def rank_of(self, module: str) -> int:
        """The rank that PEFT gives ``module``: the first pattern that matches its last parts, or ``r``."""
        return _first_match(self.rank_pattern, module, self.r)

    def scaling_of(self, module: str) -> float:
        """``alpha / r``, or ``alpha / √r`` for rank-stabilised LoRA, with this module's own alpha and rank (M9)."""
        alpha, rank = _first_match(self.alpha_pattern, module, self.lora_alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def load_adapter(path: str | Path) -> Adapter:
    """The adapter in a directory that PEFT's ``save_pretrained`` wrote, on the CPU, in the dtypes it was saved in.

    Raises:
        AdapterFormatError: no such directory, a file that is missing or damaged, a config that lacks a key, or an
            adapter that needs more than LoRA A, LoRA B and a scaling.
    """
    directory = Path(path)
    try:
        config = PeftConfig.of(_read_config(directory))
        return Adapter(_paired(_read_tensors(directory), config), source=str(path))
    except ValueError as error:
        raise AdapterFormatError(path, str(error)) from error


def _read_config(directory: Path) -> Mapping[str, Any]:
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


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    # Optional: only those who read adapters from files need it.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = directory / WEIGHTS_FILE
    if not file.is_file():
        other = "; convert adapter_model.bin to safetensors" if (directory / "adapter_model.bin").exists() else ""
        raise ValueError(f"it has no {WEIGHTS_FILE}{other}")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{WEIGHTS_FILE} cannot be read, it is damaged or cut short: {error}") from error
    return tensors


def _paired(tensors: Mapping[str, Tensor], config: PeftConfig) -> dict[str, ModuleAdapter]:
    """A and B of each module, with the rank that the config promises."""
    found: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name.removeprefix(_PREFIX))
        if match is None or tensor.dim() != 2 or not tensor.is_floating_point():
            unknown.append(f"{name} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
        else:
            found.setdefault(match["module"], {})[match["kind"]] = tensor
    if unknown:
        raise ValueError(
            f"{WEIGHTS_FILE} has tensors that are no LoRA weights of a linear layer: {', '.join(unknown)}; expected "
            f"are {_PREFIX}<module>.lora_A.weight and .lora_B.weight, of two dimensions"
        )
    modules = {}
    for module, pair in sorted(found.items()):
        if len(pair) < 2:
            raise ValueError(f"module {module!r} has lora_{next(iter(pair))} alone, its other half is missing")
        rank = config.rank_of(module)
        if (pair["A"].shape[0], pair["B"].shape[1]) != (rank, rank):
            raise ValueError(
                f"module {module!r}: expected rank {rank} ({CONFIG_FILE}), received lora_A {tuple(pair['A'].shape)} "
                f"and lora_B {tuple(pair['B'].shape)}"
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in pair.values()):
            raise ValueError(f"module {module!r} has LoRA weights that are infinite or not a number")
        modules[module] = ModuleAdapter(pair["A"], pair["B"], config.scaling_of(module))
    return modules


def _refuse_unserved(data: Mapping[str, Any]) -> None:
    for key, off in _UNSERVED.items():
        value = data.get(key)
        if value is not None and value not in off:
            raise ValueError(f"{key}={value!r} is not served: merge the adapter, or train one without it")
    init = data.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _HARMLESS_INITS:
        raise ValueError(
            f"init_lora_weights={init!r} changes the base weights when PEFT loads it: convert the adapter with "
            "save_pretrained(path_initial_model_for_weight_conversion=…)"
        )


def _pattern(data: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    pattern = data.get(key) or {}
    if not isinstance(pattern, dict):
        raise ValueError(f"{key} is {pattern!r}, an object is needed")
    for name in pattern:
        try:
            re.compile(name)
        except re.error as error:
            raise ValueError(f"{key} has {name!r}, which is no regular expression: {error}") from error
    return list(pattern.items())


def _first_match(pattern: Mapping[str, T], module: str, default: T) -> T:
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _rank(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key} is {value!r}, a whole number of at least 1 is needed")
    return value


def _number(key: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}, a number is needed")
    return float(value)
