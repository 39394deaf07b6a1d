"""The classes of transformers that make checkpoints for the architectures of vLLM's registry."""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

from conformance.implementations.vllm.models.registry import Registered, ancestors, converted, registered
from conformance.subjects.models.recipes import BUILT_AS

# A model type has several classes; the one that it is known for is that of the first of these which vLLM serves.
_HEADS = (
    "CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "RETRIEVAL",
    "PRETRAINING",
    "MASKED_LM",
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
)


@functools.cache
def transformers() -> Any:
    """The library, imported for whoever first asks for it, and silent about what it loads and saves."""
    library: Any = importlib.import_module("transformers")
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()
    return library


def counterpart(entry: Registered) -> str | None:
    """The class for an architecture: of its name, or of the nearest one that its class of vLLM or a base serves."""
    name = BUILT_AS.get(entry.architecture, entry.architecture)
    if name in _buildable():
        return name
    places = ancestors(*entry.place)
    return next((found for place in places if (found := served_by(place)) is not None), None)


def served_by(place: tuple[str, str]) -> str | None:
    """The first class of transformers whose checkpoints a class of vLLM serves."""
    served = (one.architecture for one in registered().values() if one.place == place)
    return next((name for name in served if name in _buildable()), None)


def conversions() -> dict[str, Registered]:
    """transformers' classes that vLLM serves by converting one of its own, one for each use, and what it converts."""
    found: dict[tuple[Registered, bool], str] = {}
    for name in sorted(_buildable()):
        entry = converted(name)
        if entry is not None:
            found.setdefault((entry, "Classification" in name), name)
    return {name: entry for (entry, _), name in found.items()}


def imported(implementation: str) -> Any:
    """transformers' class of that name; what its module warns of while it is imported is for transformers' authors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers(), implementation)


def model_type_of(implementation: str) -> str:
    """The model type of a class, by transformers' table: vLLM writes another one into some configuration classes."""
    cls = imported(implementation).config_class
    types = [name for name, config in _configs().items() if config == cls.__name__]
    return types[0] if types and cls.model_type not in types else cls.model_type


def _configs() -> Mapping[str, str]:
    table: Any = importlib.import_module("transformers.models.auto.configuration_auto")
    return table.CONFIG_MAPPING_NAMES  # type: ignore[no-any-return]


def model_types() -> tuple[str, ...]:
    """The model types that transformers knows."""
    return tuple(_configs())


@functools.cache
def _maps() -> tuple[Mapping[str, str | tuple[str, ...]], ...]:
    """The auto maps of transformers from model type to class names, the head that a type is known for first."""
    first = [f"MODEL_FOR_{head}_MAPPING_NAMES" for head in _HEADS] + ["MODEL_MAPPING_NAMES"]
    modeling_auto = importlib.import_module("transformers.models.auto.modeling_auto")  # two seconds
    others = [name for name in dir(modeling_auto) if re.fullmatch("MODEL_FOR_.*_MAPPING_NAMES", name)]
    return tuple(getattr(modeling_auto, name) for name in dict.fromkeys(first + others))


def classes_of(model_type: str) -> tuple[str, ...]:
    """The names of a type's classes, the head that it is known for first."""
    found = (table[model_type] for table in _maps() if model_type in table)
    return tuple(dict.fromkeys(name for one in found for name in ((one,) if isinstance(one, str) else one)))


@functools.cache
def _buildable() -> frozenset[str]:
    """Every class name in the auto maps."""
    return frozenset(name for table in _maps() for model_type in table for name in classes_of(model_type))


def served_types() -> tuple[str, ...]:
    """The model types of which vLLM serves any class."""
    return tuple(one for one in model_types() if any(name in registered() for name in classes_of(one)))
