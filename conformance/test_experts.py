"""MATH-16 and RANK-6: mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from conformance.assertions import raised
from conformance.checking import check
from conformance.engines.ranks import CollectiveMismatch, RankFailed, RankGroup
from conformance.implementations.experts import ExpertsServer, ExpertWeights, Routed
from conformance.subject import Subject
from conformance.verdicts import NotApplicable, NotExercised, Violation
from lora_compat.adapters import SubAdapter
from lora_compat.expert_adapters import ExpertAdapter, ExpertsAdapter
from strategies.experts import ExpertsAdapterSpec, ExpertsCase, experts_cases

T = TypeVar("T")
SCALING = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class ExpertsTensors:
    """The unsharded tensors of a case: float64 weights and adapters, and the input in float32."""

    weights: tuple[ExpertWeights, ...]
    adapters: tuple[ExpertsAdapter, ...]
    routed: Routed

    def to(self, device: str) -> ExpertsTensors:
        """The same on ``device``."""
        weights = tuple(one.to(device) for one in self.weights)
        return ExpertsTensors(weights, tuple(moved(one, device) for one in self.adapters), self.routed.to(device))


def moved(adapter: ExpertsAdapter, device: str) -> ExpertsAdapter:
    """``adapter`` on ``device``."""

    def part(one: SubAdapter | None) -> SubAdapter | None:
        return None if one is None else SubAdapter(one.lora_a.to(device), one.lora_b.to(device))

    def expert(one: ExpertAdapter | None) -> ExpertAdapter | None:
        return None if one is None else ExpertAdapter(tuple(part(half) for half in one.gate_up), part(one.down))

    return ExpertsAdapter(tuple(expert(one) for one in adapter.experts), adapter.scaling)


def tensors_of(case: ExpertsCase) -> ExpertsTensors:
    """Weights of -1, 0 and 1, inputs and adapters of -1 and 1: at most 3 columns in, 12 between, rank 8 stay exact."""
    generator = torch.Generator().manual_seed(case.seed)
    inner, hidden = case.intermediate_size, case.hidden_size

    def draw(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).double()

    def signs(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator).double() * 2 - 1

    def part(spec: ExpertsAdapterSpec, rows: int, columns: int) -> SubAdapter:
        return SubAdapter(signs(spec.rank, columns).float(), signs(rows, spec.rank).float())

    def expert(spec: ExpertsAdapterSpec) -> ExpertAdapter:
        gate, up, down = spec.parts
        halves = (part(spec, inner, hidden) if gate else None, part(spec, inner, hidden) if up else None)
        return ExpertAdapter(
            (part(spec, 2 * inner, hidden),) if spec.fused else halves, part(spec, hidden, inner) if down else None
        )

    weights = tuple(
        ExpertWeights(draw(inner, hidden), draw(inner, hidden), draw(hidden, inner)) for _ in range(case.experts)
    )
    adapters = tuple(
        ExpertsAdapter(tuple(expert(spec) if here else None for here in spec.experts), SCALING)
        for spec in case.adapters
    )
    ids = torch.tensor(case.routing)
    factors = 2.0 ** torch.randint(-1, 2, ids.shape, generator=generator)
    return ExpertsTensors(weights, adapters, Routed(signs(len(case.tokens), hidden).float(), ids, factors))


def merged(base: ExpertWeights, adapter: ExpertAdapter | None) -> ExpertWeights:
    """The expert's weights with ``s·B·A`` in them."""
    if adapter is None:
        return base
    both = torch.cat([base.gate, base.up])
    inner = base.gate.shape[0]
    for index, one in enumerate(adapter.gate_up):
        if one is not None:
            both[index * inner : index * inner + one.lora_b.shape[0]] += SCALING * (one.lora_b @ one.lora_a).double()
    down = base.down
    if adapter.down is not None:
        down = down + SCALING * (adapter.down.lora_b @ adapter.down.lora_a).double()
    return ExpertWeights(both[:inner], both[inner:], down)


def dense(case: ExpertsCase, tensors: ExpertsTensors, *, adapted: bool = True) -> Tensor:
    """What merged experts give, token by token, without any layer."""
    rows = []
    for token, adapter in enumerate(case.tokens):
        x = tensors.routed.hidden[token].double()
        total = torch.zeros(case.hidden_size, dtype=torch.float64)
        for expert, factor in zip(case.routing[token], tensors.routed.weights[token].double(), strict=True):
            own = tensors.adapters[adapter].experts[expert] if adapted and adapter >= 0 else None
            weights = merged(tensors.weights[expert], own)
            total = total + factor * (weights.down @ (torch.relu(weights.gate @ x) * (weights.up @ x)))
        rows.append(total)
    return torch.stack(rows)


def observed(subject: Subject, case: ExpertsCase, program: Callable[[ExpertsServer, ExpertsTensors], T]) -> list[T]:
    """Runs ``program`` on every rank.

    Raises:
        NotApplicable: the implementation is not driven on experts.
    """
    __tracebackhide__ = True
    serve = getattr(subject.implementation, "experts", None)
    if serve is None:
        why = getattr(subject.implementation, "why_no_experts", "it is not driven on mixtures of experts")
        raise NotApplicable(why)
    tensors = tensors_of(case).to(subject.device)

    def on_rank(group: RankGroup) -> T:
        return program(serve(case, tensors.weights, group), tensors)

    try:
        return subject.engine.run(case.tp_size, on_rank)
    except (CollectiveMismatch, RankFailed) as error:
        raise raised(error, case) from error


def assert_equal(case: ExpertsCase, output: Tensor, right: Tensor, where: str, anomaly: str) -> None:
    """The same numbers in the same places."""
    __tracebackhide__ = True
    if output.shape != right.shape:
        raise Violation("gather-inflated", f"{where}: {tuple(output.shape)}, but should be {tuple(right.shape)}", case)
    wrong = (output.double() != right.double()).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        message = f"{where}: out{list(place)}={float(output[place]):g}, but should be {float(right[place]):g}"
        raise Violation(anomaly, message, case)


@check("MATH-16", experts_cases())
def test_every_token_gets_its_adapter_in_each_of_its_experts(subject: Subject, case: ExpertsCase) -> None:
    def program(server: ExpertsServer, tensors: ExpertsTensors) -> tuple[Tensor, Tensor]:
        bare = server.bare(tensors.routed).to("cpu", copy=True)
        for spec, adapter in zip(case.adapters, tensors.adapters, strict=True):
            server.load(spec.slot, adapter)
        return bare, server.run(case.token_slots, tensors.routed).cpu()

    seen = observed(subject, case, program)
    tensors = tensors_of(case)
    right, plain = dense(case, tensors), dense(case, tensors, adapted=False)
    for rank, (bare, output) in enumerate(seen):
        assert_equal(case, bare, plain, f"rank {rank}, bare", "base-changed")
        assert_equal(case, output, right, f"rank {rank}", "unexplained")
    if torch.equal(right, plain) and -1 not in case.tokens:
        raise NotExercised("the adapters change nothing")


@check("RANK-6", experts_cases())
def test_the_warm_up_rank_counts_experts_and_its_dummy_changes_nothing(subject: Subject, case: ExpertsCase) -> None:
    largest = 8 * case.max_rank

    def program(server: ExpertsServer, tensors: ExpertsTensors) -> tuple[int, Tensor, Tensor]:
        bare = server.bare(tensors.routed).to("cpu", copy=True)
        rank = server.warmup_rank(default=case.max_rank, max_lora_rank=largest)
        for spec in case.adapters:
            server.load_dummy(spec.slot, min(rank, case.max_rank))
        return rank, bare, server.run(case.token_slots, tensors.routed).cpu()

    right = -(-case.max_rank // case.rank_shards) * case.rank_shards
    for where, (rank, bare, output) in enumerate(observed(subject, case, program)):
        if rank % case.rank_shards:
            message = f"rank {rank}, but should be a multiple of {case.rank_shards}"
            raise Violation("rank-indivisible", message, case)
        if rank != right:
            raise Violation("rank-not-smallest", f"rank {rank}, but should be {right}", case)
        assert_equal(case, output + 0.0, bare + 0.0, f"rank {where}, warmed up", "adapter-leak")
