"""The numbers of a test of one linear layer, whatever library it is for."""

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
from conformance.oracles.linear import Expected, error_bound, expected_of
from conformance.subjects.subject import Subject
from conformance.values.linear import CaseTensors, laid_out, product_alone, rank_input, values_of
from lora_compat.families import Family
from strategies.cases import Case, Layout, Regime
from strategies.forwards import Forward

SIBLING = ("WRAP-7", "WRAP-8")  # a path beside the layer multiplies with its weight


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One case with its numbers.

    ``inputs`` has every rank's input, and ``expected`` what ``outputs`` of every rank must be, as nested lists; of
    partial sums there is one: the sum. ``paths`` are the tensors compared, as expressions of the ``result`` of a
    forward, flattened where the layout has more than two dimensions; ``gate`` is the extra argument of one that takes
    it. ``bound`` is the largest error that is allowed, 0 for equal.
    """

    clause: str
    anomaly: str
    case: Case
    tensors: CaseTensors
    inputs: Sequence[Tensor]
    gate: Tensor | None
    slots: tuple[int, ...]
    expected: Sequence[object]
    paths: tuple[str, ...]
    bound: float
    summed: bool
    counts_tensors: bool  # whether it is the number of tensors that is wrong
    resets: bool  # whether the slots are emptied before the tokens run

    @property
    def unwraps(self) -> bool:
        """Whether the weight is read through wrappers."""
        return self.clause.startswith("UNWRAP-")

    @property
    def reads_attributes(self) -> bool:
        """Whether attributes are read through the LoRA layer."""
        return (self.clause, self.anomaly) == ("WRAP-4", "hidden-attribute")

    @property
    def compares(self) -> bool:
        """Whether outputs are compared with numbers; else it is the collectives that matter."""
        return not self.clause.startswith("COMM-")


@cache
def reference() -> Subject:
    """The subject that knows the right answers."""
    return Subject(ReferenceImplementation(), ThreadsEngine())


def scene_of(clause: str, anomaly: str, case: Case, fact: Fact) -> Scene:
    """The numbers of ``case``, with what the oracle expects of it."""
    tensors = values_of(case)
    seen = fact if isinstance(fact, Difference) else None
    resets = seen is not None and seen.after == AFTER_A_RESET
    counts = seen is not None and seen.aspect in (Aspect.COUNT, Aspect.RESULT)
    sibling, backwards = clause in SIBLING, (clause, anomaly) == ("MATH-2", "order-dependent")
    told = case
    if clause in ("WRAP-4", "RANK-5") or resets:
        told = replace(case, tokens=(-1,) * len(case.tokens))
    elif sibling:
        told = product_alone(case)
    right = expected_of(reference(), told, replace(tensors, biases=()) if sibling else tensors)
    values = [[rows(value) for value in one.values] for one in right]
    paths = ("result",) if sibling else paths_of(case)
    paths = tuple(path + flat for path, flat in zip(paths, _flattened(case, right[0]), strict=True))
    summed = sums_partials(told)
    if summed:
        values, paths = [summed_over_ranks(values, right[0].by_token)[:1]], paths[:1]
    inputs = [rank_input(case, tensors, rank) for rank in range(case.tp_size)]
    if sibling and case.layer.family is Family.ROW and not case.layer.input_is_parallel:
        inputs = [one.chunk(case.layer_tp_size, -1)[rank % case.layer_tp_size] for rank, one in enumerate(inputs)]
    slots, gate = (case if resets or clause == "RANK-5" else told).token_slots, gate_of(case)
    if backwards:
        inputs, slots, gate = [one.flip(0) for one in inputs], slots[::-1], None if gate is None else gate.flip(0)
        values = [[value.flip(0) if value.dim() > 1 else value for value in one] for one in values]
    lists = [[value.tolist() for value in one] for one in values]
    if (clause, anomaly) == ("MATH-7", "input-written"):
        lists = [[one.tolist()] for one in inputs]
    return Scene(
        clause=clause,
        anomaly=anomaly,
        case=case,
        tensors=tensors,
        inputs=inputs,
        gate=gate,
        slots=slots,
        expected=[one[0] if len(one) == 1 and not counts else one for one in lists],
        paths=paths,
        bound=0.0 if case.regime is Regime.EXACT else _bound(case, right),
        summed=summed,
        counts_tensors=counts,
        resets=resets,
    )


def _flattened(case: Case, right: Expected) -> list[str]:
    """What makes of each tensor of a result one that has a row, or a number, for each token."""
    if case.layout not in (Layout.THREE_D, Layout.FOUR_D):
        return [""] * len(right.values)
    forms = (".flatten(0, -2)" if value.dim() > 1 else ".flatten()" for value in right.values)
    return [form if by_token else "" for form, by_token in zip(forms, right.by_token, strict=True)]


def _bound(case: Case, right: Sequence[Expected]) -> float:
    every = [error_bound(case, magnitude.abs()) for one in right for magnitude in one.magnitudes if magnitude.numel()]
    return max((float(bound.max()) for bound in every), default=0.0)


def layer_reduces(case: Case) -> bool:
    """Whether a layer may sum over the ranks, however it is served."""
    return case.layer.family is Family.ROW


def rows(value: Tensor) -> Tensor:
    """An output as a matrix of tokens."""
    return value.reshape(-1, value.shape[-1]) if value.dim() > 2 else value


def paths_of(case: Case) -> tuple[str, ...]:
    """Every tensor of a forward's result, as an expression of ``result``."""
    return tuple(reference().observe(case, lambda rank: _tensors("result", rank.build().run()))[0])


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
