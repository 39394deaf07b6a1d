"""Bugs that show only beyond a size: each template plants one for any size, so that the suite's sight can be measured.

``sizes`` grow; a bug of size n shows where the dimension is larger than n (of TP sizes: n or larger). Those up to
``seen`` are caught by a default run of each of ten seeds, as docs/results/power.md has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from unittest.mock import patch

import torch

import lora_compat
from lora_compat import delta
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.delta import LoRADelta
from lora_compat.slots import SlotBuffers

NUMBERS = ("MATH-1", "MATH-2", "MATH-5", "MATH-4", "MATH-7", "MATH-9", "MATH-10", "MATH-12", "MATH-13", "MATH-3")
MIXED = ("MATH-2", "MATH-5", "MATH-3", "MATH-7", "MATH-9")
PACKED = ("MATH-8", "MATH-1", "MATH-2", "MATH-9")


@dataclass(frozen=True, slots=True)
class Template:
    """A bug that needs more than n of ``dimension``; ``patch(n)`` is the context in which it lives.

    ``largest`` is the most of the dimension that a case can have in any call.
    """

    dimension: str
    story: str
    clauses: tuple[str, ...]
    sizes: tuple[int, ...]
    seen: int
    largest: Callable[[Any], int]
    patch: Callable[[int], AbstractContextManager[object]]


TEMPLATES: list[Template] = []


def template(
    dimension: str, *, clauses: tuple[str, ...], sizes: tuple[int, ...], seen: int, largest: Callable[[Any], int]
) -> Callable[[Callable[[int], Any]], Callable[[int], Any]]:
    """Makes a template of a function that plants the bug; its docstring is the story."""

    def decorate(planted: Callable[[int], Any]) -> Callable[[int], Any]:
        assert planted.__doc__
        TEMPLATES.append(Template(dimension, planted.__doc__, clauses, sizes, seen, largest, planted))
        return planted

    return decorate


def _expanding(change: Callable[..., torch.Tensor | None]) -> Any:
    """`delta.expand`, after which the elements that ``change`` selects are as they were before."""
    original = delta.expand

    def expand(hidden, lora_b, scaling, batch, output, **options):
        before = output.clone()
        original(hidden, lora_b, scaling, batch, output, **options)
        lost = change(batch, output, **options)
        if lost is not None:
            output[lost] = before[lost]

    return patch.object(delta, "expand", expand)


def _loading(change: Callable[[LayerAdapter], LayerAdapter]) -> Any:
    """`SlotBuffers.load` of a changed adapter."""
    original = SlotBuffers.load
    return patch.object(SlotBuffers, "load", lambda self, slot, one: original(self, slot, change(one)))


def _cut(part: SubAdapter | None, rank: int) -> SubAdapter | None:
    """A part whose ranks beyond ``rank`` are zeros."""
    if part is None or part.rank <= rank:
        return part
    kept = (torch.arange(part.rank) < rank).to(part.lora_b)
    return SubAdapter(part.lora_a, part.lora_b * kept)


@template(
    "tokens in a batch",
    clauses=NUMBERS,
    sizes=(8, 16, 32, 64, 100, 128, 256),
    seen=128,
    largest=lambda case: len(case.tokens),
)
def tokens(n: int) -> Any:
    """Tokens beyond the n-th are served by none."""
    return _expanding(lambda batch, output, **_: torch.arange(len(batch)) >= n)


@template(
    "tokens in a run of one adapter",
    clauses=NUMBERS,
    sizes=(6, 12, 24, 48, 64, 128),
    seen=64,
    largest=lambda case: max((len(list(run)) for _, run in groupby(case.tokens)), default=0),
)
def run_of_tokens(n: int) -> Any:
    """Of a run of one adapter's tokens those beyond the n-th are served by none."""

    def beyond(batch: Any, output: Any, **_: Any) -> torch.Tensor:
        places = [place for _, run in groupby(batch.slots) for place, _ in enumerate(run)]
        return torch.tensor(places) >= n

    return _expanding(beyond)


@template(
    "adapters in one batch",
    clauses=MIXED,
    sizes=(3, 4, 5, 6, 7, 8, 9),
    seen=8,
    largest=lambda case: len(set(case.tokens) - {-1}),
)
def adapters(n: int) -> Any:
    """Of the adapters that a batch names those beyond the n-th serve nobody."""

    def beyond(batch: Any, output: Any, **_: Any) -> torch.Tensor:
        served = sorted({slot for slot in batch.slots if slot >= 0})[:n]
        return torch.tensor([slot not in served for slot in batch.slots], dtype=torch.bool)

    return _expanding(beyond)


@template(
    "slots", clauses=NUMBERS, sizes=(3, 4, 5, 6, 8, 16, 24, 32, 64), seen=32, largest=lambda case: case.max_loras
)
def slots(n: int) -> Any:
    """Adapters in slots from the n-th on are served by none."""
    return _expanding(lambda batch, output, **_: torch.tensor([slot >= n for slot in batch.slots], dtype=torch.bool))


@template(
    "rank of an adapter",
    clauses=NUMBERS,
    sizes=(64, 96, 128, 192, 256, 320, 512),
    seen=256,
    largest=lambda case: max((one.rank for one in case.adapters), default=0),
)
def rank(n: int) -> Any:
    """Ranks beyond the n-th are lost."""
    return _loading(lambda one: LayerAdapter(tuple(_cut(part, n) for part in one.parts), one.scaling))


@template(
    "inputs of a rank",
    clauses=NUMBERS,
    sizes=(17, 32, 64, 128, 200, 256, 512),
    seen=200,
    largest=lambda case: case.layer.input_size,
)
def inputs(n: int) -> Any:
    """Inputs beyond the n-th are not multiplied with A."""
    original = delta.shrink

    def shrink(x, lora_a, batch):
        return original(x * (torch.arange(x.shape[1]) < n), lora_a, batch)

    return patch.object(delta, "shrink", shrink)


@template(
    "rows of a rank",
    clauses=NUMBERS,
    sizes=(30, 40, 64, 100, 128, 256),
    seen=128,
    largest=lambda case: sum(case.layer.output_sizes),
)
def rows(n: int) -> Any:
    """Output columns beyond the n-th get nothing."""

    def beyond(batch: Any, output: Any, **_: Any) -> torch.Tensor:
        return (torch.arange(output.shape[1]) >= n).expand(output.shape)

    return _expanding(beyond)


@template(
    "outputs of a merged layer",
    clauses=PACKED,
    sizes=(3, 4, 5, 6, 7, 8),
    seen=7,
    largest=lambda case: len(case.layer.output_sizes),
)
def outputs(n: int) -> Any:
    """Outputs beyond the n-th get nothing."""

    def beyond(batch: Any, output: Any, *, slice_sizes: Any, offset: int = 0) -> torch.Tensor:
        return (torch.arange(output.shape[1]) >= offset + sum(slice_sizes[:n])).expand(output.shape)

    return _expanding(beyond)


@template(
    "difference between the ranks of two parts",
    clauses=PACKED,
    sizes=(1, 4, 8, 16, 31, 63),
    seen=63,
    largest=lambda case: max((one.rank - min(one.ranks) for one in case.adapters if one.ranks), default=0),
)
def uneven_ranks(n: int) -> Any:
    """A part that is of more than n ranks more than the smallest one loses the others."""

    def cut(one: LayerAdapter) -> LayerAdapter:
        least = min((part.rank for part in one.parts if part is not None), default=0)
        return LayerAdapter(tuple(_cut(part, least + n) for part in one.parts), one.scaling)

    return _loading(cut)


@template(
    "modules of a warm-up question",
    clauses=("RANK-1", "RANK-2"),
    sizes=(3, 4, 5, 6, 8, 16, 32),
    seen=8,
    largest=lambda question: len(question.shards),
)
def modules(n: int) -> Any:
    """Modules beyond the n-th are not asked into how many parts they cut the rank."""
    original = lora_compat.warmup_rank

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        return original(max_lora_rank=max_lora_rank, shards=tuple(shards)[:n], default=default)

    return patch.object(lora_compat, "warmup_rank", warmup_rank)


@template(
    "ranks of tensor parallelism",
    clauses=("MATH-1", "MATH-9", "MATH-13"),
    sizes=(2, 4, 8, 16, 32),
    seen=32,
    largest=lambda case: case.tp_size,
)
def tp_size(n: int) -> Any:
    """From n ranks on the last one adds nothing."""
    original = LoRADelta.add_to

    def add_to(self, output, x):
        lost = self.slots.plan.tp_size >= n and self.slots.plan.tp_rank == self.slots.plan.tp_size - 1
        added = original(self, output.clone() if lost else output, x)
        return output if lost else added

    return patch.object(LoRADelta, "add_to", add_to)


@dataclass(frozen=True, slots=True)
class Beyond:
    """One planted bug of a template."""

    template: Template
    size: int

    @property
    def name(self) -> str:
        return f"{self.template.dimension} beyond {self.size}"

    @property
    def least(self) -> int:
        """How much of the dimension a case must have for the bug to be alive."""
        return self.size + (self.template.patch is not tp_size)


def planted(*, seen_only: bool = True) -> Iterator[Beyond]:
    """The bugs of all templates, those that are said to be seen or all that are measured."""
    for one in TEMPLATES:
        yield from (Beyond(one, size) for size in one.sizes if not seen_only or size <= one.seen)
