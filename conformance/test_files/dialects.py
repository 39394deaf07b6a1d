"""The two libraries a regression file can be for: what differs in imports, wrapping, loading and token maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from conformance.test_files.scenes import Scene
from lora_compat.adapters import LayerAdapter
from lora_compat.families import Family
from strategies.cases import Case
from strategies.source import Library

_RANKS = """
class Ranks(threading.local):  # stands in for the group; every rank is a thread
    {size}, {rank}, parts = {count}, 0, [torch.empty(0)] * {count}
    barrier = threading.Barrier({count}, timeout=10)

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
        self.barrier.wait()  # until all have read what was gathered before
        self.parts[self.{rank}] = tensor.clone()
        self.barrier.wait()
        return torch.cat(self.parts, dim)
{reduce}

RANKS = Ranks()
"""
_REDUCE = """
    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.all_gather(tensor[None], 0).sum(0)
"""


def layer_reduces(case: Case) -> bool:
    """Whether a layer may sum over the ranks, however it is served."""
    return case.layer.family is Family.ROW


class CannotWrite(ValueError):
    """A failure that no file can be written for; the message says why."""


class Dialect(ABC):
    """One library's words."""

    library: ClassVar[Library]
    suffix: ClassVar[str]
    impl: ClassVar[str]  # the --impl that the file is about
    context: ClassVar[str | None] = None  # in which a layer is built as one of several ranks
    rank: ClassVar[str]
    size: ClassVar[str]

    def reason_against(self, scene: Scene) -> str | None:
        """Why no file can be written for this library, or None."""
        return "the class is an existing one, built by a recipe" if scene.case.subclass.target else None

    def ranks(self, count: int, *, reduces: bool) -> str:
        """The group of a case with several ranks."""
        return _RANKS.format(size=self.size, rank=self.rank, count=count, reduce=_REDUCE if reduces else "").strip(
            "\n"
        )

    @abstractmethod
    def imports(self, scene: Scene) -> set[str]:
        """Import lines, sorted by the caller."""

    @abstractmethod
    def wrap(self, scene: Scene) -> list[str]:
        """``lora``, from ``layer``."""

    @abstractmethod
    def wrapped(self) -> str:
        """An expression that is true of ``lora`` where it is a LoRA layer."""

    @abstractmethod
    def claimants(self, scene: Scene) -> list[str]:
        """``claimants``, all that would take ``layer``."""

    @abstractmethod
    def load(self, scene: Scene, slot: int, adapter: LayerAdapter) -> list[str]:
        """Puts an adapter into a slot of ``lora``."""

    @abstractmethod
    def load_dummies(self, scene: Scene) -> list[str]:
        """Puts the warm-up's dummy adapter into the slots of the case's own."""

    @abstractmethod
    def select(self, scene: Scene, slots: tuple[int, ...]) -> list[str]:
        """Says which slot serves each token."""

    @abstractmethod
    def dense_weight(self) -> str:
        """The dense weight read through ``outer``."""
