"""The numbers of a case of a mixture of experts, and what merged experts give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conformance.implementations.experts import ExpertWeights, Routed
from conformance.values.vocabulary import poison
from lora_compat.adapters import SubAdapter
from lora_compat.expert_parts import ExpertAdapter, ExpertsAdapter
from strategies.experts import ExpertsAdapterSpec, ExpertsCase

SCALING = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class ExpertsTensors:
    """The unsharded tensors of a case: float64 weights and adapters, and the input in float32.

    ``former`` is what slots held before, if anything.
    """

    weights: tuple[ExpertWeights, ...]
    adapters: tuple[ExpertsAdapter, ...]
    routed: Routed
    former: ExpertsAdapter | None

    def to(self, device: str) -> ExpertsTensors:
        """The same on ``device``."""
        weights = tuple(one.to(device) for one in self.weights)
        adapters = tuple(moved(one, device) for one in self.adapters)
        former = None if self.former is None else moved(self.former, device)
        return ExpertsTensors(weights, adapters, self.routed.to(device), former)


def moved(adapter: ExpertsAdapter, device: str) -> ExpertsAdapter:
    """``adapter`` on ``device``."""

    def part(one: SubAdapter | None) -> SubAdapter | None:
        return None if one is None else SubAdapter(one.lora_a.to(device), one.lora_b.to(device))

    def expert(one: ExpertAdapter | None) -> ExpertAdapter | None:
        return None if one is None else ExpertAdapter(tuple(part(half) for half in one.gate_up), part(one.down))

    return ExpertsAdapter(tuple(expert(one) for one in adapter.experts), adapter.scaling)


def with_down_of(tensors: ExpertsTensors, other: int) -> ExpertsTensors:
    """The tensors with what adapter ``other`` has for the second product in all adapters."""
    adapters = tuple(
        ExpertsAdapter(
            tuple(
                None if one is None or its is None else replace(one, down=its.down)
                for one, its in zip(adapter.experts, tensors.adapters[other].experts, strict=True)
            )
        )
        for adapter in tensors.adapters
    )
    return replace(tensors, adapters=adapters)


def tensors_of(case: ExpertsCase) -> ExpertsTensors:
    """All of -1 and 1: at most 3 columns in, 16 between, rank 8 stay exact, and few products are zero."""
    generator = torch.Generator().manual_seed(case.seed)
    inner, hidden = case.intermediate_size, case.hidden_size

    def signs(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator).double() * 2 - 1

    def expert(spec: ExpertsAdapterSpec, values: Callable[..., Tensor] = signs) -> ExpertAdapter:
        def part(rows: int, columns: int) -> SubAdapter:
            return SubAdapter(values(spec.rank, columns).float(), values(rows, spec.rank).float())

        gate, up, down = spec.parts
        halves = (part(inner, hidden) if gate else None, part(inner, hidden) if up else None)
        return ExpertAdapter(
            (part(2 * inner, hidden),) if spec.fused else halves, part(hidden, inner) if down else None
        )

    weights = tuple(
        ExpertWeights(signs(inner, hidden), signs(inner, hidden), signs(hidden, inner)) for _ in range(case.experts)
    )
    adapters = tuple(
        ExpertsAdapter(tuple(expert(spec) if here else None for here in spec.experts), SCALING)
        for spec in case.adapters
    )
    ids = torch.tensor(case.routing, dtype=torch.int64).reshape(-1, case.top_k)
    factors = 2.0 ** torch.randint(-1, 2, ids.shape, generator=generator)
    routed = Routed(signs(len(case.tokens), hidden).float(), ids, factors)
    former = ExpertsAdapterSpec(rank=case.max_rank)
    before = (
        ExpertsAdapter(tuple(expert(former, poison) for _ in range(case.experts)), SCALING) if case.reused else None
    )
    return ExpertsTensors(weights, adapters, routed, before)
