"""What the suite asks of an implementation, and of the library its base layers come from.

A third party's implementation is one class that derives from `Implementation`, found through the entry-point group
``lora_compat.implementations`` or ``--impl package.module:attribute``.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.model_protocol import ModelDeployment, ModelManager
from conformance.implementations.models import ModelLibrary
from lora_compat.adapters import LayerAdapter
from strategies.cases import DTYPES, Case, Dtype, Quantization
from strategies.codec import Spec
from strategies.libraries import Library
from strategies.trees import ModelSpec


class Refused(Exception):
    """An implementation that will not serve a layer, and says so (WRAP-6). Never raised for what it gets wrong."""


class Unavailable(Exception):
    """One of an implementation's own quantization schemes that cannot run on this device; the message says why."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The LoRA settings a layer is wrapped under; ``packed`` as in `Case`."""

    max_loras: int
    max_lora_rank: int
    fully_sharded: bool
    packed: tuple[int, ...]
    dtype: torch.dtype

    @property
    def packed_names(self) -> list[str]:
        """The packed-modules list, with made-up names."""
        return [f"part_{index}" for index in range(len(self.packed))]


class LayerLibrary(ABC):
    """Where base layers come from: how they are built in a group, loaded and finished."""

    library: ClassVar[Library]
    models: ModelLibrary | None = None
    """The library's whole models, where it has some."""
    bases: tuple[type[nn.Module], ...] = ()
    """Modules of torch's own that are layers of this library, where to all others they are none."""

    @abstractmethod
    def prepare(self) -> None:
        """Imports and configures whatever is needed, once per process.

        Raises:
            MissingPrerequisite: something is not installed; the message says how to get it.
        """

    def identity(self) -> str:
        """The library's name, and its version where it has one of its own; imports nothing.

        Raises:
            MissingPrerequisite: as `prepare`.
        """
        return self.library.value

    @abstractmethod
    def ranked(self, group: RankGroup) -> AbstractContextManager[object]:
        """Makes ``group`` the tensor-parallel group of layers built and run in this thread."""

    @abstractmethod
    def build(self, cls: type[nn.Module], arguments: Mapping[str, object], quantization: Quantization) -> nn.Module:
        """An instance, in torch's default dtype."""

    def load(self, layer: nn.Module, name: str, loaded: Tensor, *shard: int | str) -> None:
        """Loads a checkpoint tensor, float64, into parameter ``name`` through the layer's own weight loader."""
        parameter = getattr(layer, name)
        layer.weight_loader(parameter, loaded.to(parameter.dtype), *shard)  # type: ignore[operator]

    def unsupported(self, case: Case) -> str | None:
        """Why there is no such base layer, or None."""
        return None

    def finish(self, layer: nn.Module) -> None:
        """What a model loader does once all weights are in."""
        layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr,operator]


class Implementation(ABC):
    """LoRA on linear layers, as the suite drives it. All tensors are unsharded; every rank calls with the same."""

    name: ClassVar[str]
    layers: LayerLibrary
    refusals: tuple[type[BaseException], ...] = (Refused,)

    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Name and versions of what is tested, for the header and the certificate."""

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        """What it serves on ``device``; cases of other dtypes are run in one of these.

        ``Dtype.TF32`` in place of ``Dtype.FLOAT32`` declares that products of float32 may be taken in TF32: its cases
        are of float32 tensors, and judged with the bits that TF32 keeps.
        """
        return DTYPES

    @property
    def companions(self) -> bool:
        """Whether its `manager` serves what its `vocabulary` and `experts` make, too."""
        return False

    def fitted(self, spec: Spec) -> Spec:
        """The nearest to ``spec`` that asks for nothing it has no notion of; judged in its place."""
        return spec

    def without(self, clause: str) -> str | None:
        """Why it has no notion of what the clause is about, whose cases are all *not applicable* then, or None."""
        return None

    def unsupported(self, case: Case) -> str | None:
        """Why this case is declared *not applicable*, or None."""
        return self.layers.unsupported(case)

    @abstractmethod
    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module | None:
        """The LoRA layer for ``layer``; None where the implementation leaves it as it is.

        Raises:
            Refused: it says that it cannot serve the layer.
        """

    @abstractmethod
    def load(self, wrapped: nn.Module, slot: int, adapter: LayerAdapter) -> None:
        """Loads one adapter's part of this layer into a slot."""

    @abstractmethod
    def reset(self, wrapped: nn.Module, slot: int) -> None:
        """Empties a slot."""

    @abstractmethod
    def select(self, wrapped: nn.Module, slots: tuple[int, ...]) -> None:
        """Says which slot serves each token of the next forward; -1 for none."""

    def select_as_is(self, wrapped: nn.Module, slots: tuple[int, ...]) -> None:
        """`select` for the clause about tokens without an adapter: nothing may stand in for them (MATH-3)."""
        self.select(wrapped, slots)

    def quant_method_of(self, module: nn.Module) -> object:
        """The quant method found through whatever wraps the base layer (UNWRAP-1, 3, 4)."""
        raise NotImplementedError(f"{type(self).__name__}.quant_method_of")

    @abstractmethod
    def dense_weight(self, module: nn.Module) -> Tensor:
        """The dense local weight read through whatever wraps the base layer."""

    def warmup_rank(self, *, default: int, max_lora_rank: int, shards: tuple[int, ...]) -> int:
        """The dummy rank for modules that cut the LoRA rank into so many parts each (RANK).

        Raises:
            Refused: no rank fits.
        """
        raise NotImplementedError(f"{type(self).__name__}.warmup_rank")

    def load_dummy(self, wrapped: nn.Module, slot: int, rank: int) -> None:
        """Loads the warm-up's dummy adapter of ``rank`` into a slot (RANK-5)."""
        raise NotImplementedError(f"{type(self).__name__}.load_dummy")

    @abstractmethod
    def claimants(self, layer: nn.Module, deployment: Deployment) -> tuple[str, ...]:
        """Every LoRA layer class (or family) that would take ``layer``, whatever order they are asked in."""

    def unsupported_model(self, model: ModelSpec, deployment: ModelDeployment) -> str | None:
        """Why whole models, or this one, are declared *not applicable*, or None."""
        return "it drives single layers only"

    def manager(self, model: nn.Module, deployment: ModelDeployment) -> ModelManager:
        """Wraps ``model`` in place; asked for models that are not `unsupported_model` only.

        Raises:
            Refused: a target that cannot be wrapped (WRAP-6).
        """
        raise NotImplementedError(f"{type(self).__name__}.manager")


REQUIRED_METHODS = tuple(sorted(Implementation.__abstractmethods__))


class MissingPrerequisite(Exception):
    """Something the run needs and this machine lacks; the message says how to get it."""


def version_of(package: str, how: str) -> str:
    """The version of an installed package, which is not imported for that.

    Raises:
        MissingPrerequisite: it is not installed; ``how`` is the message.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPrerequisite(how)
    return version(package)
