"""What the suite asks of an implementation that loads checkpoints and adapter directories: one model on one rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from lora_compat.checkpoint_map import CheckpointMap

Parts = Mapping[str, Tensor]  # of a module: "output" of its forward, and its own tensors by name


OUTPUT, ROWS, LOGITS = "output", "rows", "logits"
TOKENS_OF_OTHERS = 2  # of another part of a model in one batch: fewer than any module has inputs
HELD = "output as "  # how the part is called that is a module's output by another of its names, which follows
EXPERTS = ("w13_weight", "w2_weight")  # of a mixture: gate and up, down


def whose(numbers: Sequence[int | None], tokens: int, *, others: bool) -> list[int | None]:
    """The adapters of so many tokens, which have ``numbers`` in turn; two without any where they are of ``others``."""
    return [None] * TOKENS_OF_OTHERS if others else list(islice(cycle(numbers), tokens))


class BaseModelError(Exception):
    """A checkpoint that cannot be served without any adapter, so that nothing is asked of LoRA."""


class NoLoRASupport(Exception):
    """A model class that declares no LoRA support, and was refused for that."""


class NoForward(Exception):
    """A model whose whole forward cannot run here, adapters or not, and why."""


class ForwardRaised(Exception):
    """A module whose forward runs without adapters, and raises where they can be loaded."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The deployment of a model.

    ``lora`` says whether adapters can be loaded at all, ``fused_experts`` that they have the experts of a layer in one
    tensor; ``options`` are further options of the implementation, switched on or ``name=value``. Beside ``max_loras``
    active adapters ``spare`` more are kept, in bfloat16 where they are ``narrow``. LoRA is ``restricted`` to modules
    whose names end so, if any are given. The ranks have the layers of one ``stage`` of a pipeline, out of so many.
    """

    lora: bool = True
    fully_sharded: bool = False
    fused_experts: bool = False
    options: tuple[str, ...] = ()
    max_rank: int = 8
    max_loras: int = 2
    spare: int = 0
    narrow: bool = False
    restricted: tuple[str, ...] = ()
    stage: tuple[int, int] = (0, 1)
    dtype: torch.dtype = torch.float32

    def of_base(self) -> ModelSettings:
        """The same without what is about adapters alone, of which a model that has none shows nothing."""
        return ModelSettings(
            self.lora, fused_experts=self.fused_experts, options=self.options, stage=self.stage, dtype=self.dtype
        )


class ServedModel(ABC):
    """A checkpoint loaded on one rank; every rank makes the same calls, as reading runs collectives.

    ``forwards`` says of modules whether their forward runs here, which the first reading finds out, before any adapter
    can be loaded; where another model of the same checkpoint was read, it is told instead.
    """

    forwards: dict[str, bool]

    @abstractmethod
    def serve_adapters(self) -> None:
        """Makes the model ready for adapters; read before, it is the bare model."""

    @abstractmethod
    def add(self, number: int, directory: Path) -> None:
        """Loads and activates the adapter in a PEFT directory; raises whatever the implementation does."""

    @abstractmethod
    def replace(self, number: int, directory: Path) -> None:
        """Loads the adapter in a directory in the place of a registered one."""

    @abstractmethod
    def remove(self, number: int) -> None:
        """Takes it out again."""

    @abstractmethod
    def warm_up(self) -> None:
        """Loads a dummy adapter and takes it out again, as an engine does when it starts; raises what that does."""

    def held(self) -> list[Tensor] | None:
        """All tensors that what it computes depends on, in one order; None where that is not known.

        It is cheaper than a reading, and tells of an adapter that went nowhere.
        """
        return None

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """All modules, by the names that they have without adapters."""

    @abstractmethod
    def towers(self) -> tuple[str, ...]:
        """Those of `names` that are given rows of images or sounds, as the class says, and not of text."""

    @abstractmethod
    def read(self, *numbers: int | None, apart: bool = False, only: Container[str] | None = None) -> dict[str, Parts]:
        """What each module computes with an adapter, or without one; ``apart``, in a batch of images and text.

        ``only`` of these modules, if it is given.

        Of several the tokens of a batch have one each, in turn; what does not go by tokens is of the first. Towers
        have other rows than the language model where they are apart, and a module is mapped rightly if it goes by its
        own.

        A linear layer's `OUTPUT` is its forward on the unit vectors, so each row is what one input adds; `ROWS` of an
        embedding are those of every id; the module called `LOGITS` has the head's, of the unit vectors. A module whose
        forward cannot run here has the weight instead that its slots amount to. Everything else a module holds is
        there by name.
        """

    def logits(self, number: int | None, tokens: Tensor) -> Tensor:
        """The logits of one sequence with an adapter, or without one: ``[tokens, vocabulary]``, float64.

        Asked of models that were loaded in float64; ``tokens`` are ids, int64.

        Raises:
            NoForward: the model cannot run as a whole, adapters or not.
            ForwardRaised: it ran without adapters, and does not where they can be loaded.
        """
        raise NoForward("it runs single modules of a model only")


class ModelServer(ABC):
    """Loads checkpoints.

    ``expert_parallel`` is the option of `ModelSettings` that gives each rank some experts of a mixture whole, in the
    place of a part of each, and ``in_turn`` a further one for those that are in groups, by which the ranks get them in
    turn; ``copied_experts=N`` is one that adds copies of N experts. ``whole_towers`` gives each rank the towers whole.
    Each is empty where there is none. ``pipelined`` says that it loads single stages of a pipeline.
    """

    expert_parallel = ""
    in_turn = ""
    copied_experts = ""
    whole_towers = ""
    pipelined = False

    @abstractmethod
    def prepare(self) -> None:
        """Imports what every load does, for the processes that are forked afterwards."""

    @abstractmethod
    def options(self, architecture: str) -> tuple[str, ...]:
        """What the class of an architecture declares that it can do with LoRA, each an option of `ModelSettings`."""

    def ways(self, architecture: str) -> tuple[tuple[str, ...], ...]:
        """Options, some together, with which other code serves an architecture, or a part of the model alone is."""
        return ()

    @abstractmethod
    def load(self, directory: Path, settings: ModelSettings, group: RankGroup) -> ServedModel:
        """Loads a checkpoint on this rank.

        Raises:
            BaseModelError: it cannot be served, adapters or not.
            NoLoRASupport: ``settings.lora`` is asked of a class that has none.
        """


class AdaptersView:
    """How an implementation's adapters are seen in a model's modules; by itself, that of a model without any."""

    def base_of(self, module: nn.Module) -> nn.Module | None:
        """What a LoRA layer stands in the place of; None for any other module."""
        return None

    def weights(self, name: str, lora: Any, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those tensors of a module that slots change, with what they amount to; ``lora`` is the layer around it."""
        return {}

    def merged(self, name: str) -> AbstractContextManager[None]:
        """Inside, a module has the weights that it is given while it runs for the adapter, where it is given any."""
        return nullcontext()

    def serve(self, tokens: int, *, tower: bool = False) -> None:
        """Has so many tokens of the next forward served, which are rows of a tower or tokens of text."""


class HostedModel(ABC):
    """A model of the library that base layers are of, without any adapters of its own, loaded on one rank.

    ``forwards`` is as `ServedModel`'s.
    """

    model: Any
    forwards: dict[str, bool]

    @abstractmethod
    def ranked(self) -> AbstractContextManager[object]:
        """Makes the rank's group that of the layers that run in this thread."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """As `ServedModel.names`."""

    @abstractmethod
    def towers(self) -> tuple[str, ...]:
        """As `ServedModel.towers`."""

    @abstractmethod
    def read(self, view: AdaptersView | None, only: Container[str] | None = None) -> dict[str, Parts]:
        """As `ServedModel.read`, through an implementation's view; None before anything was wrapped."""

    @abstractmethod
    def logits(self, view: AdaptersView | None, tokens: Tensor) -> Tensor:
        """As `ServedModel.logits`, likewise."""


class ModelLibrary(ABC):
    """Where a library's models come from, for an implementation that brings LoRA of its own.

    ``expert_parallel`` and ``in_turn`` are as `ModelServer`'s.
    """

    expert_parallel = ""
    in_turn = ""

    @abstractmethod
    def prepare(self) -> None:
        """As `ModelServer.prepare`."""

    @abstractmethod
    def host(self, directory: Path, settings: ModelSettings, group: RankGroup) -> HostedModel:
        """Loads a checkpoint on this rank.

        Raises:
            BaseModelError: it cannot be served.
        """

    @abstractmethod
    def maps(self, directory: Path, settings: ModelSettings, size: int) -> Sequence[CheckpointMap]:
        """Where the model's own loader puts the checkpoint, on each of ``size`` ranks."""
