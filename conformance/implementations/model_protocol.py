"""What the suite asks of an implementation that serves whole models: their adapters, and which token has which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from lora_compat.model_adapters import Adapter


class InjectedFault(Exception):
    """Raised by a load that was told to fail, as a full device or a broken copy would make it."""


@dataclass(frozen=True, slots=True)
class ModelDeployment:
    """The settings a model is served under.

    ``packed`` maps the last part of a packed layer's name to those of the checkpoint modules in it. ``evict`` says
    whether a full house makes room by least recent use or refuses.
    """

    max_loras: int
    max_adapters: int
    max_lora_rank: int
    fully_sharded: bool
    packed: Mapping[str, tuple[str, ...]]
    dtype: torch.dtype
    targets: Sequence[str] | None = None
    tower: str = ""
    evict: bool = True


class ModelManager(ABC):
    """A model and its adapters on one rank; ids are integers from 1. Every rank makes the same calls.

    A method that cannot do what it is asked raises, and leaves everything as it was.
    """

    remaps_itself: ClassVar[bool] = True
    """Whether a token map stays right when adapters move; where not, tokens are mapped before every run."""

    @abstractmethod
    def wrapped(self, name: str) -> bool:
        """Whether the module of that name was replaced by a LoRA layer."""

    def left_alone(self) -> Collection[str] | None:
        """The names of unsupported layers that a warning was given for, once each; None where nobody can tell."""
        return None

    @abstractmethod
    def add(self, adapter_id: int, adapter: Adapter) -> bool:
        """Registers an adapter; False where it was registered. Either way it counts as used."""

    @abstractmethod
    def add_directory(self, adapter_id: int, path: Path) -> bool:
        """Registers the adapter in a PEFT directory."""

    @abstractmethod
    def activate(self, adapter_id: int) -> bool:
        """Loads a registered adapter; False where it was active. Either way it counts as used."""

    @abstractmethod
    def deactivate(self, adapter_id: int) -> bool:
        """Unloads it; False where it was not active."""

    @abstractmethod
    def remove(self, adapter_id: int) -> bool:
        """Unregisters it; False where it was not registered."""

    @abstractmethod
    def pin(self, adapter_id: int) -> None:
        """Activates it if need be, and keeps it from being evicted."""

    def replace(self, adapter_id: int, adapter: Adapter | Path) -> None:
        """Loads an adapter anew in the place that it has, and activates it; by itself, it is used as it is."""
        if isinstance(adapter, Path):
            self.add_directory(adapter_id, adapter)
        else:
            self.add(adapter_id, adapter)
        self.activate(adapter_id)

    @abstractmethod
    def map_tokens(self, adapter_ids: Sequence[int | None], *, tower: bool = False) -> None:
        """Says which active adapter serves each token of the next runs, in the tower or in the rest of the model."""

    @abstractmethod
    def registered(self) -> frozenset[int]:
        """The adapters registered."""

    @abstractmethod
    def active(self) -> frozenset[int]:
        """The adapters active."""

    @abstractmethod
    def failing_at(self, name: str) -> AbstractContextManager[None]:
        """Inside, loading an adapter's tensors into the module of that name raises `InjectedFault`."""

    def rank_parts(self) -> Collection[int] | None:
        """Into how many parts each module says it cuts the dummy's rank.

        None: fully sharded, the layers whose outputs are sharded cut it into as many parts as there are ranks.
        """
        return None

    @abstractmethod
    def warmed_up(self, tokens: int, default: int) -> AbstractContextManager[int]:
        """Inside, a dummy adapter of the warm-up rank, which it yields, is active and serves all tokens."""
