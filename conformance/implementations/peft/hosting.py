"""A PEFT model around torch modules, driven by PEFT's public calls: adapters by name, and which sample has which."""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from conformance.implementations.protocol import MissingPrerequisite, Refused, version_of

NOBODY = "__base__"  # what PEFT calls samples without an adapter
_FIRST = "untrained"  # PEFT wraps a module when a first adapter is added to it; this one is never asked for
_WEIGHTED = "weighted"
_NOT_SUPPORTED = "is not supported"


@functools.cache
def peft() -> Any:
    """PEFT, imported when it is first needed.

    Raises:
        MissingPrerequisite: it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise MissingPrerequisite(f"PEFT is needed: make conformance IMPL=peft, or install peft ({error})") from error


def installed_version() -> str:
    """PEFT's version.

    Raises:
        MissingPrerequisite: it is not installed.
    """
    return version_of("peft", "PEFT is not installed: make conformance IMPL=peft, or pip install peft")


LAYER = "layer"


def slot_name(slot: int) -> str:
    """What the adapter in a slot is called."""
    return NOBODY if slot < 0 else f"slot_{slot}"


class ModelOfOne(nn.Module):
    """The smallest model that PEFT can be told to wrap a module of; it asks its parameters where they are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1)
        self.layer = layer


class Host:
    """A PEFT model, wrapped in place, and its adapters.

    Samples that all have one adapter are served as most users have it, by `set_adapter` and a plain forward; samples
    without any by the disabled adapters; mixed ones, and all of a server whose requests ``name`` their adapters, by
    ``adapter_names``, which PEFT's model hands to its layers in a hook as this one does.
    """

    def __init__(self, model: nn.Module, *, name: bool = False, **targets: Any) -> None:
        with _quietly():
            config = lora_config(1, 1.0, **targets)
            try:
                self.model: Any = peft().get_peft_model(model, config, adapter_name=_FIRST).eval()
            except ValueError as error:
                raise _refusal(error) from error
        self._names = name
        self._slots: tuple[str, ...] = ()
        self._mixed = False
        self._layers = list(self.layers().values())
        for layer in self._layers:
            layer.register_forward_pre_hook(self._name_samples, with_kwargs=True)

    @property
    def names(self) -> frozenset[str]:
        """The adapters that the model lists, or that a layer of it has."""
        parts = [part for layer in self._layers for part in (layer.lora_A, layer.lora_embedding_A)]
        return frozenset(self.model.peft_config).union(*parts) - {_FIRST}

    def layers(self) -> dict[str, Any]:
        """Its LoRA layers, by the names that the modules in them had."""
        tuner = peft().tuners.lora.LoraLayer
        modules = self.model.get_base_model().named_modules(remove_duplicate=False)
        return {name: module for name, module in modules if isinstance(module, tuner)}

    def call(self, *args: object) -> Any:
        """One forward of the module that is called `LAYER`, with whatever stands in its place."""
        return self.model.get_base_model().get_submodule(LAYER)(*args)

    def add(self, name: str, config: Any, tensors: Mapping[str, Tensor]) -> None:
        """Adds an adapter, in place of one of that name; tensors are called as in PEFT's files, behind its prefix."""
        self.delete(name)
        with _quietly():
            self.model.add_adapter(name, config)
            prefixed = {f"base_model.model.{key}": tensor for key, tensor in tensors.items()}
            found = peft().set_peft_model_state_dict(self.model, prefixed, adapter_name=name)
        if found.unexpected_keys:
            raise ValueError(f"PEFT knows nothing of {found.unexpected_keys}")

    def load(self, name: str, directory: Path) -> None:
        """Loads an adapter from the files that PEFT writes."""
        with _quietly():
            self.model.load_adapter(str(directory), adapter_name=name)

    def delete(self, name: str) -> None:
        """Deletes an adapter that is there."""
        if name in self.names:
            with _quietly():
                self.model.delete_adapter(name)

    def merge(self, names: Sequence[str], weights: Sequence[float], *, for_good: bool = False) -> nn.Module:
        """The base model with adapters merged, each by itself or, where weights are not 1, as one weighted adapter."""
        self.model.base_model.enable_adapter_layers()
        self._mixed = False
        merged = list(names)
        with _quietly():
            if len(names) > 1 and {*weights} != {1.0}:
                self.delete(_WEIGHTED)
                merged = [_WEIGHTED]
                self.model.add_weighted_adapter(list(names), list(weights), _WEIGHTED, combination_type="cat")
            if for_good:
                return self.model.merge_and_unload(adapter_names=merged)  # type: ignore[no-any-return]
            self.model.merge_adapter(merged)
        return self.model.get_base_model()  # type: ignore[no-any-return]

    def unmerge(self) -> None:
        """Takes what is merged out of the base weights again."""
        self.model.unmerge_adapter()

    def select(self, names: Sequence[str]) -> None:
        """Says which adapter serves each token of the next forward; one that is not there serves none."""
        here = self.names
        self._slots = tuple(name if name in here else NOBODY for name in names)
        every = {*self._slots}
        self._mixed = len(every) > 1 or self._names
        if self._mixed:
            self.model.base_model.enable_adapter_layers()
        elif every <= {NOBODY}:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(self._slots[0])

    def _name_samples(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hands a mixed batch's names on, one for each sample: the name of its first token."""
        if self._mixed:
            samples = len(args[0])
            kwargs["adapter_names"] = list(self._slots[:: len(self._slots) // samples])
        return args, kwargs


def lora_config(rank: int, scaling: float, *, rslora: bool = False, **options: Any) -> Any:
    """The config of an adapter of that rank and scaling, which ``lora_alpha`` is for."""
    alpha = scaling * (math.sqrt(rank) if rslora else rank)
    return peft().LoraConfig(r=rank, lora_alpha=alpha, use_rslora=rslora, **options)


def _refusal(error: ValueError) -> Exception:
    return Refused(str(error)) if _NOT_SUPPORTED in str(error) else error


@contextmanager
def _quietly() -> Iterator[None]:
    """PEFT warns where an adapter that was active is deleted, and where a model is wrapped for a second time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
