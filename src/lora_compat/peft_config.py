"""``adapter_config.json`` as PEFT writes it: the rank and the scaling of each module, and what is not served."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

CONFIG_FILE = "adapter_config.json"
T = TypeVar("T")
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
    "kasa_config": ({},),
    "arrow_config": ({},),
    "monteclora_config": ({},),
}
# Initialisations that leave the base model as it is; others (PiSSA, OLoRA, LoftQ, …) change it when PEFT loads them.
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


class UnservedFeature(ValueError):
    """A key that asks for what is not served."""


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The part of ``adapter_config.json`` that decides the numbers."""

    r: int
    lora_alpha: float
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Any], *, served: Collection[str] = ()) -> PeftConfig:
        """Checks ``data``; ``served`` are keys that the caller serves beyond A, B and a scaling for linear layers.

        Raises:
            ValueError: a key is missing or ill-typed, or asks for what is not served.
        """
        if str(data.get("peft_type", "LORA")).upper() != "LORA":
            raise UnservedFeature(f"peft_type is {data['peft_type']!r}, only 'LORA' is served")
        missing = [key for key in ("r", "lora_alpha") if key not in data]
        if missing:
            raise ValueError(f"{CONFIG_FILE} lacks {', '.join(map(repr, missing))}")
        _refuse_unserved({key: value for key, value in data.items() if key not in served})
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


def names_in(data: Mapping[str, Any], key: str) -> list[str]:
    """A list of names; none where there is nothing.

    Raises:
        ValueError: it is something else.
    """
    found = data.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{key} is {found!r}, a list of names is needed")
    return found


def _refuse_unserved(data: Mapping[str, Any]) -> None:
    for key, off in _UNSERVED.items():
        value = data.get(key)
        if value is not None and value not in off:
            raise UnservedFeature(f"{key}={value!r} is not served: merge the adapter, or train one without it")
    init = data.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _HARMLESS_INITS:
        raise UnservedFeature(
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
