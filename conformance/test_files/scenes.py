"""What a regression file shows: the numbers of a case, and how the clause uses them, whatever library it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.anomalies.partial_sums import summed_over_ranks, sums_partials
from conformance.judging.facts import AFTER_A_RESET, Aspect, Difference, Fact
from conformance.oracles.linear import error_bound, expected_of
from conformance.subjects.linear import RankSession
from conformance.subjects.subject import Subject
from conformance.values.linear import laid_out, product_alone, rank_input, values_of
from lora_compat.adapters import LayerAdapter
from lora_compat.families import Family
from strategies.cases import Case, Forward, Regime

# How a clause goes about its layer, where it does more than run it once.
WRAPPED_ONLY = ("WRAP-1", "WRAP-2")
POISONED = ("MATH-5",)
TWICE_WRAPPED = ("WRAP-5",)
TRANSPARENT = ("WRAP-4",)
DEQUANTIZING = ("WRAP-8",)
SIBLING = ("WRAP-7", *DEQUANTIZING)
WARMED = ("RANK-5",)
SILENT = ("COMM-2",)
ALIKE = ("COMM-1",)
CLAIMED = ("WRAP-3",)
UNWRAPPED = ("UNWRAP-1", "UNWRAP-2", "UNWRAP-3")
MATH = (*(f"MATH-{n}" for n in range(1, 14)), "MATH-17")
RUN = (*MATH, *TWICE_WRAPPED, *TRANSPARENT, *SIBLING, *WARMED)
LAYER_CLAUSES = (*RUN, *WRAPPED_ONLY, *SILENT, *ALIKE, *CLAIMED, *UNWRAPPED)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One case with its numbers.

    ``inputs`` has every rank's input, and ``expected[rank]`` every tensor it must return, the first ``tensors`` in
    ``paths`` as expressions of the ``result`` of a forward; for partial sums there is one rank: the sum. ``bound``
    is the largest error that is allowed, 0 for equal.
    """

    clause: str
    anomaly: str
    case: Case
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    adapters: Sequence[LayerAdapter]
    inputs: Sequence[Tensor]
    slots: tuple[int, ...]
    expected: Sequence[Sequence[Tensor]]
    paths: tuple[str, ...]
    bound: float
    summed: bool  # whether only the sum over the ranks means something
    counts_tensors: bool = False  # whether it is the number of tensors that is wrong
    resets: bool = False  # whether the slots are emptied before the tokens run

    @property
    def only_wraps(self) -> bool:
        """Whether being wrapped is all that matters."""
        return self.clause in WRAPPED_ONLY

    @property
    def asks_claimants(self) -> bool:
        """Whether the LoRA classes are asked which of them takes the layer."""
        return self.clause in CLAIMED

    @property
    def unwraps(self) -> bool:
        """Whether the weight is read through wrappers."""
        return self.clause in UNWRAPPED

    @property
    def runs(self) -> bool:
        """Whether tokens go through the LoRA layer."""
        return not (self.only_wraps or self.asks_claimants or self.unwraps)

    @property
    def compares(self) -> bool:
        """Whether outputs are compared with numbers; else it is the collectives that matter."""
        return self.runs and self.clause not in (*SILENT, *ALIKE)

    @property
    def uses_adapters(self) -> bool:
        """Whether adapters are loaded."""
        return self.runs and bool(self.adapters) and self.clause not in WARMED

    @property
    def same_input(self) -> bool:
        """Whether every rank has the same input."""
        return all(torch.equal(one, self.inputs[0]) for one in self.inputs)

    @property
    def reversed(self) -> bool:
        """Whether the failure shows with the tokens in reverse order."""
        return (self.clause, self.anomaly) == ("MATH-2", "order-dependent")


@cache
def reference() -> Subject:
    """The subject that knows the right answers."""
    return Subject(ReferenceImplementation(), ThreadsEngine())


def scene_of(clause: str, anomaly: str, case: Case, fact: Fact) -> Scene:
    """The numbers of ``case``, with what the oracle expects of it."""
    tensors = values_of(case)
    differs = isinstance(fact, Difference)
    resets = differs and fact.after == AFTER_A_RESET
    told = _told(clause, case, resets)
    right = expected_of(reference(), told, replace(tensors, biases=()) if clause in SIBLING else tensors)
    by_token = right[0].by_token
    values = [[rows(value) for value in one.values] for one in right]
    paths = ("result",) if clause in SIBLING else paths_of(case)
    bounds = [
        float(error_bound(case, magnitude.abs()).max())
        for one in right
        for magnitude in one.magnitudes
        if magnitude.numel()
    ]
    if sums_partials(told):
        values, paths = [summed_over_ranks(values, by_token)[:1]], paths[:1]
    inputs = [rank_input(case, tensors, rank) for rank in range(case.tp_size)]
    if clause in SIBLING and case.layer.family is Family.ROW and not case.layer.input_is_parallel:
        inputs = [one.chunk(case.layer_tp_size, -1)[rank % case.layer_tp_size] for rank, one in enumerate(inputs)]
    slots = (case if resets or clause in WARMED else told).token_slots
    return Scene(
        clause=clause,
        anomaly=anomaly,
        case=case,
        weights=tensors.weights,
        biases=tensors.biases,
        adapters=tensors.adapters,
        inputs=inputs,
        slots=slots,
        expected=values,
        paths=paths,
        bound=0.0 if case.regime is Regime.EXACT else max(bounds, default=0.0),
        summed=sums_partials(told),
        resets=resets,
        counts_tensors=differs and fact.aspect in (Aspect.COUNT, Aspect.RESULT),
    )


def _told(clause: str, case: Case, resets: bool) -> Case:
    """The case as the clause runs it."""
    if clause in (*TRANSPARENT, *WARMED) or resets:
        return replace(case, tokens=(-1,) * len(case.tokens))
    return product_alone(case) if clause in SIBLING else case


def rows(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1]) if value.dim() > 2 else value


def paths_of(case: Case) -> tuple[str, ...]:
    """Every tensor of a forward's result, as an expression of ``result``."""
    found: list[tuple[str, ...]] = reference().observe(case, lambda rank: tuple(_tensors("result", _run(rank))))
    return found[0]


def _run(rank: RankSession) -> object:
    return rank.build().run()


def _tensors(name: str, result: object) -> list[str]:
    if isinstance(result, Tensor):
        return [name]
    if isinstance(result, (tuple, list)):
        return [path for index, item in enumerate(result) for path in _tensors(f"{name}[{index}]", item)]
    return []


def gate_of(case: Case) -> Tensor | None:
    """The extra argument of a forward that takes one."""
    if case.subclass.depth == 0 or case.subclass.forward is not Forward.EXTRA_ARGUMENT:
        return None
    x = laid_out(torch.zeros(len(case.tokens), 1), case.layout)
    return values_of(case).gate.view(*x.shape[:-1], 1)
