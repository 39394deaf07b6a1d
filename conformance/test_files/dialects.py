"""The two libraries a regression file can be for: the words of each for a layer's adapters and a model's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from conformance.implementations.protocol import Deployment
from conformance.subjects.calls import Call
from conformance.test_files.plays import ADDS, Play
from lora_compat.adapters import LayerAdapter
from strategies.libraries import Library

_RANKS = """
class Ranks(threading.local):  # stands in for the group; every rank is a thread
    {size}, {rank}, parts = {count}, 0, [torch.empty(0)] * {count}{log}
    barrier = threading.Barrier({count}, timeout=10)

    def all_gather(self, tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:{note}
        self.barrier.wait()  # until all have read what was gathered before
        self.parts[self.{rank}] = tensor.clone()
        self.barrier.wait()
        return torch.cat(self.parts, dim)
{reduce}

RANKS = Ranks()
""".strip("\n")
_REDUCE = """
    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.all_gather(tensor[None], 0).sum(0)
"""


class Dialect(ABC):
    """One library's words."""

    library: ClassVar[Library]
    suffix: ClassVar[str]
    impl: ClassVar[str]  # the --impl that the file is about
    names: ClassVar[Mapping[str, str]]  # what a file may import, and from where
    fixture: ClassVar[str] = ""  # what its test asks pytest for
    context: ClassVar[str | None] = None  # in which a layer is built as one of several ranks
    rank: ClassVar[str]
    size: ClassVar[str]
    model: ClassVar[str]  # an empty one
    wrapped: ClassVar[str]  # the class of a layer with adapters
    dense_weight: ClassVar[str]  # read through ``outer``
    registered: ClassVar[str]
    active: ClassVar[str]
    methods: ClassVar[Mapping[str, str]]  # of a manager, by those of the suite
    adapter: ClassVar[str]  # a function that makes one out of ``ADAPTERS``, of the largest rank
    saved: ClassVar[Mapping[str, str]]  # its class, how it is loaded from a PEFT directory, and what loads it
    loader: ClassVar[str]  # of a layer, that puts an adapter's tensors into a slot

    def group(self, count: int, *, reduces: bool, logs: bool) -> str:
        """The group of several ranks; one that ``logs`` keeps the shapes that every rank issues."""
        log = f"\n    log: list[list[tuple[int, ...]]] = [[] for _ in range({count})]  # shapes, by rank"
        note = f"\n        self.log[self.{self.rank}].append(tuple(tensor.shape))"
        return _RANKS.format(
            size=self.size,
            rank=self.rank,
            count=count,
            reduce=_REDUCE if reduces else "",
            log=log if logs else "",
            note=note if logs else "",
        )

    def patched(self, world: int, group: str, rank: str = "0") -> list[str]:
        """Tells the library of its group, one of ``world`` ranks."""
        return []

    def settled(self, deployment: Deployment, clause: str, slots: Sequence[int]) -> Deployment:
        """The deployment with which the library serves tokens of these slots."""
        return deployment

    @abstractmethod
    def config(self, deployment: Deployment) -> str:
        """An expression that makes its LoRA configuration."""

    @abstractmethod
    def wrap(self, deployment: Deployment, function: str = "") -> list[str]:
        """``lora``, from ``layer``, through the library's function for its kind."""

    @abstractmethod
    def claimants(self, deployment: Deployment) -> list[str]:
        """``claimants``, all that would take ``layer``."""

    @abstractmethod
    def load(self, slot: int, adapter: LayerAdapter) -> list[str]:
        """Puts an adapter into a slot of ``lora``."""

    @abstractmethod
    def load_dummies(self, deployment: Deployment, slots: Sequence[int], shards: int) -> list[str]:
        """Puts the warm-up's dummy adapter into these slots."""

    @abstractmethod
    def select(self, deployment: Deployment, slots: tuple[int, ...]) -> list[str]:
        """Says which slot serves each token."""

    def model_class(self, packing: Mapping[str, Sequence[str]]) -> list[str]:
        """The class of a model, where the library's managers read more of one than any module has."""
        return []

    @abstractmethod
    def targeting(self, targets: str, packing: Mapping[str, Sequence[str]]) -> tuple[str, str]:
        """The configuration, and the manager that replaces what ``targets`` name in ``model``."""

    @abstractmethod
    def manager(self, play: Play, *, named: bool) -> list[str]:
        """The manager of ``model``, ``named`` so where it is called later."""

    @abstractmethod
    def mapped(self, play: Play, ids: tuple[int, ...]) -> list[str]:
        """Says which adapter serves each token, 0 for none; the tokens of a tower are the others in reverse."""

    @abstractmethod
    def warmed_up(self, play: Play, lines: list[str]) -> list[str]:
        """``lines`` under a dummy adapter of rank ``dummy_rank``."""

    @abstractmethod
    def added(self, identity: int) -> str:
        """The arguments with which an adapter is added."""

    def does(self, one: Call, *, looks: bool) -> list[str]:
        """The call, as an expression after what comes before it; ``looks`` where a look makes a difference."""
        method = self.methods[one.method.removesuffix("_failing")]
        identity = one.number + 1
        return [f"manager.{method}({self.added(identity) if one.method in ADDS else identity})"]
