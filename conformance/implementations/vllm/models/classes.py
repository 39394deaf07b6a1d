"""vLLM's model classes, looked at in this process: vLLM would start another one for each."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from conformance.implementations.vllm.models.registry import converted
from conformance.implementations.vllm.models.towers import make_small

TRANSFORMERS = "model_impl=transformers"  # vLLM's argument for its backend that runs transformers' own code
_BACKEND = "vllm.model_executor.models.transformers"


def model_class(directory: Path, options: Collection[str]) -> Any:
    """vLLM's class for a checkpoint under such options; None where it knows none.

    Of the backend's classes, which say the same of LoRA, any.
    """
    if TRANSFORMERS in options:
        return _backend()[0]
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return class_of((config.get("architectures") or [""])[0])


def class_of(architecture: str) -> Any:
    """vLLM's class of that name in its registry, or the one that it converts to serve it; None where it knows none."""
    entry = converted(architecture)
    architecture = entry.architecture if entry else architecture
    registry = importlib.import_module("vllm.model_executor.models.registry")
    found = registry.ModelRegistry.models.get(architecture)
    if isinstance(found, registry._LazyRegisteredModel):
        registry.ModelRegistry.register_model(architecture, found.load_model_cls())
        found = registry.ModelRegistry.models[architecture]
    cls = found.load_model_cls() if found is not None else None
    if cls is not None:
        make_small(cls.__module__)
    return cls


def served_by_transformers(architecture: str) -> bool:
    """Whether vLLM takes `TRANSFORMERS` for an architecture that it has a class of its own for."""
    cls, theirs = class_of(architecture), getattr(importlib.import_module("transformers"), architecture, None)
    if cls is None or theirs is None or cls.__module__.startswith(_BACKEND):
        return False
    return bool(theirs.is_backend_compatible() or theirs._can_set_attn_implementation())


@cache
def _backend() -> tuple[Any, ...]:
    """The backend's classes, registered: which one it is depends on the configuration."""
    names = importlib.import_module("vllm.model_executor.models.registry")._TRANSFORMERS_BACKEND_MODELS
    return tuple(class_of(name) for name in names)
