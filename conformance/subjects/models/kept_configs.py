"""Configurations of types whose class is published with the weights: what they are given, kept as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from conformance.subjects.models.sizes import subconfigs


class KeptConfig(transformers.PreTrainedConfig):  # type: ignore[misc]
    """What a config.json says; those in it that name a type are of its class, and records in lists have attributes."""

    def __post_init__(self, **given: Any) -> None:
        inner = {name: _configuration(given[name]) for name in subconfigs(given) if "model_type" in given[name]}
        values = {name: _with_attributes(value) for name, value in {**given, **inner}.items()}
        super().__post_init__(**values)


class _Record(dict[str, Any]):
    """A dictionary whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def kept_config(model_type: str, *, known: bool) -> type[transformers.PreTrainedConfig]:
    """A class for a type, which transformers knows from then on, unless the type is ``known`` to whoever loads it."""
    if known:
        return type("KeptConfig", (transformers.PreTrainedConfig,), {"model_type": model_type})
    made = type("KeptConfig", (KeptConfig,), {"model_type": model_type})
    transformers.AutoConfig.register(model_type, made, exist_ok=True)
    return made


def _configuration(content: Mapping[str, Any]) -> Any:
    model_type, known = content["model_type"], transformers.CONFIG_MAPPING
    cls: Any = known[model_type] if model_type in known else KeptConfig  # noqa: SIM401 - which asks `known` twice
    return cls(**content)


def _with_attributes(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_record(one) for one in value]
    return value


def _record(content: Mapping[str, Any]) -> _Record:
    return _Record({name: _record(one) if isinstance(one, dict) else one for name, one in content.items()})
