"""Model types: what ``--certify-model TARGET`` may name, and what each name stands for."""

from __future__ import annotations

import difflib
import enum
import importlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conformance.implementations.vllm.models.registry import Registered, converted, registered
from conformance.subjects.models.counterparts import (
    classes_of,
    conversions,
    counterpart,
    imported,
    model_type_of,
    model_types,
    served_by,
    served_types,
)
from conformance.subjects.models.omissions import NOT_BUILDABLE, TABLES_NOT_BUILDABLE
from conformance.subjects.models.remote_code import REMOTE_CODE
from conformance.subjects.models.skeletons import config_class

ALL = "all"
WITH_TOWERS = "ForConditionalGeneration"  # how names of architectures end


class BadModelTarget(ValueError):
    """A TARGET that names no model that could be certified; the message says what would work."""


class UnknownModel(BadModelTarget):
    """A name that is no model type, architecture, directory or class."""


class ModelWithoutLoRA(BadModelTarget):
    """A model class that declares no LoRA support."""


class NotBuildable(Exception):
    """An architecture with LoRA support that cannot be built here, and why: it is not applicable."""


class Naming(enum.Enum):
    """How a target was named."""

    TYPE = "model type"
    ARCHITECTURE = "architecture"
    DIRECTORY = "directory"
    CLASS = "class"


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """One kind of model.

    ``model_type`` and ``implementation`` are transformers' names of the configuration and of the class that makes
    checkpoints, ``architecture`` is what config.json names and vLLM's registry serves. ``path`` is the directory or
    the ``module:Class`` of a target that was named so. There is no ``implementation`` of what is in `REMOTE_CODE`.
    """

    name: str
    model_type: str
    architecture: str
    implementation: str
    naming: Naming
    path: str = ""

    def published(self) -> dict[str, Any]:
        """The content of the config.json that the target is of; empty where transformers has it by default."""
        if self.naming is Naming.DIRECTORY:
            return _read_config(Path(self.path))
        return {} if self.implementation else REMOTE_CODE[self.architecture].content

    @property
    def config_class(self) -> Any:
        """transformers' class of the configuration, whatever vLLM registers for the model type in its place."""
        if not self.implementation:
            return config_class(self.architecture)
        return imported(self.implementation).config_class

    def register(self) -> None:
        """Makes a class that is out of vLLM's tree known to its registry; nothing to do for any other target."""
        if self.naming is Naming.CLASS:
            registry = importlib.import_module("vllm.model_executor.models.registry").ModelRegistry
            registry.register_model(self.architecture, _imported(self.path))


def resolve(name: str) -> ModelTarget:
    """What a TARGET other than `ALL` stands for.

    Raises:
        UnknownModel: it is none of the things that can be named.
        ModelWithoutLoRA: the class that serves it declares no LoRA support.
        NotBuildable: it exists, and cannot be made into a checkpoint here.
        MissingPrerequisite: vLLM is not installed.
    """
    if (Path(name) / "config.json").is_file():
        return _of_directory(name)
    if Path(name).is_dir():
        raise UnknownModel(f"{name} is a directory without a config.json, so there is no model to certify in it")
    if ":" in name:
        return _of_class(name)
    if served_as(name) is not None:
        return _of_architecture(name)
    if name in model_types():
        return _of_type(name)
    raise UnknownModel(
        f"{name!r} is no model type of transformers {version('transformers')}, no architecture of vLLM, no directory "
        f"and no module:Class; {_nearest(name, (*model_types(), *registered()))}"
    )


def served_as(architecture: str) -> Registered | None:
    """vLLM's entry for an architecture, or for the one that it converts to serve it; None where it serves neither."""
    return registered().get(architecture) or converted(architecture)


def everything() -> tuple[dict[str, ModelTarget], dict[str, str]]:
    """Every architecture with LoRA support, converted ones too: those that can be built, and why others cannot be."""
    targets: dict[str, ModelTarget] = {}
    reasons: dict[str, str] = {}
    for architecture, entry in {**registered(), **conversions()}.items():
        if entry.lora:
            try:
                targets[architecture] = _of_architecture(architecture)
            except NotBuildable as error:
                reasons[architecture] = str(error)
    return targets, reasons


def _of_architecture(name: str) -> ModelTarget:
    entry = served_as(name)
    assert entry is not None
    if not entry.lora:
        raise ModelWithoutLoRA(f"{name} is served by {entry.class_name}, which declares no LoRA support")
    if name in NOT_BUILDABLE:
        raise NotBuildable(NOT_BUILDABLE[name])
    if entry.table in TABLES_NOT_BUILDABLE:
        raise NotBuildable(TABLES_NOT_BUILDABLE[entry.table])
    if name in REMOTE_CODE:
        return ModelTarget(name, REMOTE_CODE[name].model_type, name, "", Naming.ARCHITECTURE)
    implementation = counterpart(replace(entry, architecture=name))
    if implementation is None:
        raise NotBuildable(f"transformers {version('transformers')} has no implementation of {name}")
    model_type = model_type_of(implementation)
    # Embedding models with towers are published, and can only be loaded, under the name that has a head.
    with_head = name.removesuffix("Model") + WITH_TOWERS
    published = with_head if converted(name) and with_head in registered() else name
    return ModelTarget(name, model_type, published, implementation, Naming.ARCHITECTURE)


def _of_type(name: str) -> ModelTarget:
    served = [one for one in classes_of(name) if one in registered()]
    with_lora = [one for one in served if registered()[one].lora]
    if not served:
        raise UnknownModel(f"vLLM serves no model of type {name!r}; {_nearest(name, served_types())}")
    own = [one for one in with_lora if model_type_of(one) == name]
    return replace(_of_architecture((own or with_lora or served)[0]), name=name, naming=Naming.TYPE)


def _of_directory(name: str) -> ModelTarget:
    config = _read_config(Path(name))
    model_type, architectures = config.get("model_type", ""), config.get("architectures") or []
    if model_type not in model_types():
        raise UnknownModel(
            f"{name}/config.json has the model_type {model_type!r}, which transformers {version('transformers')} "
            f"does not know; {_nearest(model_type, model_types())}"
        )
    found = resolve(architectures[0] if architectures else model_type)
    return replace(found, name=name, model_type=model_type, naming=Naming.DIRECTORY, path=name)


def _of_class(name: str) -> ModelTarget:
    """A class out of vLLM's tree: its checkpoints are those of the nearest class of vLLM that it derives from."""
    cls = _imported(name)
    if not getattr(cls, "supports_lora", False):
        raise ModelWithoutLoRA(f"{name} declares no LoRA support: it has no supports_lora")
    for base in cls.__mro__:
        implementation = served_by((base.__module__, base.__name__))
        if implementation:
            model_type = model_type_of(implementation)
            return ModelTarget(name, model_type, cls.__name__, implementation, Naming.CLASS, name)
    raise UnknownModel(f"{name} derives from no model class of vLLM that transformers can make a checkpoint of")


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownModel(f"{name} cannot be imported: {error}") from error


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    except ValueError as error:
        raise UnknownModel(f"{directory}/config.json is no JSON object: {error}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"the nearest names are {', '.join(near)}" if near else "`lora-compat certify-model all` takes every one"
