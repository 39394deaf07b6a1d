"""A target's model, made by the class of transformers whose name the architecture has, and its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from conformance.subjects.models.types import ModelTarget


def made(target: ModelTarget, content: Mapping[str, Any]) -> nn.Module:
    """The model of a config.json, uninitialized, in the default dtype and on the default device."""
    cls: Any = getattr(transformers, target.implementation)
    config = AutoConfig.for_model(**content)
    return cls._from_config(config, dtype=torch.get_default_dtype())  # type: ignore[no-any-return]


def complete(directory: Path, content: Mapping[str, Any]) -> None:
    """Puts into a saved config.json what transformers left out of the content that it was made of.

    Published files have it, and vLLM reads it: attributes that transformers 5 no longer knows, and the architecture.
    """
    path = directory / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(_merged(saved, content), indent=2, sort_keys=True), encoding="utf-8")


def _merged(saved: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    both = {**content, **saved}
    for name, value in content.items():
        if isinstance(value, dict) and isinstance(saved.get(name), dict):
            both[name] = _merged(saved[name], value)
    return both if "architectures" not in content else {**both, "architectures": content["architectures"]}
