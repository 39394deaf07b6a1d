"""What an implementation makes of a case's chain: the readings of every rank, or how it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import cache
from typing import TypeVar

import torch

from conformance.engines.ranks import RankFailed, RankGroup, site_of
from conformance.implementations.models import (
    LOGITS,
    ROWS,
    BaseModelError,
    ForwardRaised,
    ModelServer,
    ModelSettings,
    NoForward,
    NoLoRASupport,
    Parts,
    ServedModel,
)
from conformance.subjects.models.chains import Chain, Chains
from conformance.subjects.outcomes import FileRefused, HarnessError, NotApplicable, NotExercised, SubjectRaised
from conformance.subjects.subject import Subject
from strategies.models.cases import ModelCase

T = TypeVar("T")
BASE, MERGED, ADAPTED = "base", "merged", "adapted"  # what a model is that readings are kept of
Readings = Mapping[str, Parts]
_MAX_RANKS = (8, 16, 32, 64)  # of those that vLLM has


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an implementation said when it did not load an adapter."""

    kind: str
    message: str
    site: str = ""  # where it was raised

    def named(self, chain: Chain) -> list[str]:
        """The modules of the file that it says it will not take; none where it broke off by an accident."""
        if self.kind in _CRASHES:
            return []
        modules = [pair.module for pair in chain.file.pairs] + [key.rsplit(".", 2)[-2] for key in chain.file.others]
        last = dict.fromkeys(module.removesuffix(".base_layer").rpartition(".")[2] for module in modules)
        return sorted(name for name in last if name in self.message) or _QUOTED.findall(self.message)[-2:]

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


_FOLDERS = re.compile(r"\S*/lora-compat-\w+/\d+/")
_QUOTED = re.compile(r"'([\w.]+)'")  # an implementation has names of its own for some modules
_CRASHES = ("AssertionError", "AttributeError", "KeyError", "IndexError", "TypeError", "UnboundLocalError")


def refused(refusal: Refusal, chain: Chain) -> FileRefused | None:
    """The outcome of a refusal by name; None of any other."""
    named = refusal.named(chain)
    return FileRefused(f"by name ({refusal.kind}): {', '.join(named)}") if named else None


@cache
def chains() -> Chains:
    """The chains of this process."""
    return Chains()


def settings_of(case: ModelCase, chain: Chain) -> ModelSettings:
    """The deployment of a case: as an operator would start it who knows the adapter's file."""
    asked = case.deployment
    return ModelSettings(
        fully_sharded=case.fully_sharded,
        fused_experts=any(pair.delta.ndim == 3 for pair in chain.file.pairs),
        options=case.options,
        max_rank=asked.room * next(size for size in _MAX_RANKS if size >= chain.file.rank),
        max_loras=asked.slots,
        spare=asked.spare,
        narrow=asked.narrow,
        restricted=asked.modules,
        stage=(0, 1) if case.stage is None else (case.stage, case.stages),
        dtype=getattr(torch, case.dtype.of_tensors),
    )


def server_of(subject: Subject) -> ModelServer:
    """Who loads checkpoints.

    Raises:
        NotApplicable: the implementation is not driven on whole models.
    """
    server = getattr(subject.implementation, "models", None)
    if server is None:
        raise NotApplicable("it is not driven on whole models")
    return server  # type: ignore[no-any-return]


def on_ranks(subject: Subject, case: ModelCase, program: Callable[[RankGroup], T]) -> list[T]:
    """Runs ``program`` on every rank.

    Raises:
        NotApplicable: the base model cannot be served or run, or its class declares no LoRA support.
        NotExercised: it does not start with LoRA, which MODEL-6 is about.
        SubjectRaised: a forward that ran without adapters does not where they can be loaded.
        CollectiveMismatch, HarnessError: as `Subject.on_ranks`.
    """
    try:
        return subject.on_ranks(case.tp_size, program)
    except Exception as error:
        cause = error.__cause__
        ended = cause.error if isinstance(cause, RankFailed) else cause
        if isinstance(ended, NoLoRASupport):
            raise NotApplicable(f"the class declares no LoRA support: {_first_line(ended)}") from error
        if isinstance(ended, BaseModelError):
            raise NotApplicable(f"the base model cannot be served here: {_first_line(ended)}") from error
        if isinstance(ended, NoForward):
            raise NotApplicable(f"the model does not run as a whole here: {_first_line(ended)}") from error
        if isinstance(ended, (NotApplicable, NotExercised)):
            raise ended from error
        if isinstance(error, SubjectRaised) and not isinstance(ended, ForwardRaised):
            raise HarnessError(str(error)) from error
        raise


def attempt(step: Callable[[], object], group: RankGroup) -> Refusal | None:
    """How an implementation refused or broke off a step, on the first rank where it did; None where it did it on all.

    All ranks know it: those that took what another one refused would wait for it in their next collective, of which
    nothing would be seen but that it is not there.
    """
    own = None
    try:
        step()
    except Exception as error:
        raised = error.__cause__ if isinstance(error, ForwardRaised) and error.__cause__ else error
        own = Refusal(type(raised).__name__, _FOLDERS.sub("", str(raised)), str(site_of(raised)))
    return own if group.size == 1 else _of_the_first(own, group)


def _of_the_first(own: Refusal | None, group: RankGroup) -> Refusal | None:
    said = list(json.dumps(astuple(own)).encode()) if own else []
    lengths = group.all_gather(torch.tensor([len(said)]), dim=0).tolist()
    if not any(lengths):
        return None
    padded = torch.tensor([said + [0] * (max(lengths) - len(said))], dtype=torch.uint8)
    told = zip(lengths, group.all_gather(padded, dim=0), strict=True)
    first, length = next((row, length) for length, row in told if length)
    return Refusal(*json.loads(bytes(first[:length].tolist())))


def right_readings(server: ModelServer, chain: Chain, settings: ModelSettings, group: RankGroup) -> Readings:
    """What the merged checkpoint computes, loaded by the class's own ``load_weights``.

    Read once for all ways of sharding and holding adapters, of which it has none.
    """
    settings = settings.of_base()
    return once(chain, (MERGED, server, settings), group, lambda: _right_readings(server, chain, settings, group))


def base_readings(
    server: ModelServer, chain: Chain, settings: ModelSettings, group: RankGroup, model: ServedModel
) -> Readings:
    """What the base checkpoint computes, loaded as ``model``, before it is ready for adapters; read once, likewise."""
    asked = BASE, server, settings.of_base()
    found, forwards = once(chain, asked, group, lambda: (model.read(None), dict(model.forwards)))
    model.forwards.update(forwards)
    return found


def once(chain: Chain, asked: tuple[object, ...], group: RankGroup, read: Callable[[], T]) -> T:
    """What a rank reads, which all of them do together, and not again."""
    of_ranks: dict[int, T] = chain.read.setdefault((*asked, group.size), {})
    if len(of_ranks) < group.size:
        of_ranks[group.rank] = read()
    return of_ranks[group.rank]


def _right_readings(server: ModelServer, chain: Chain, settings: ModelSettings, group: RankGroup) -> Readings:
    try:
        return server.load(chain.merged, settings, group).read(None)
    except BaseModelError:  # of a class that has one weight for both ends whatever the checkpoint has
        if chain.ends is None:
            raise
    if chain.ends.embedding and chain.ends.head:
        raise NotApplicable("the class has one weight for embedding and head, and the adapter is of both")
    merged = server.load(chain.merged_tied, settings, group).read(None)
    base = server.load(chain.base, settings, group).read(None)
    return {name: base[name] if _is_other_end(name, parts, chain) else parts for name, parts in merged.items()}


def _is_other_end(name: str, parts: Parts, chain: Chain) -> bool:
    """Whether a module is the end of a tied weight that the adapter leaves alone."""
    assert chain.ends is not None
    return name == LOGITS if chain.ends.embedding else ROWS in parts


def _first_line(error: BaseException) -> str:
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (said[1] if len(said) > 1 and said[0].endswith("VllmConfig") else said[0])[:300]
