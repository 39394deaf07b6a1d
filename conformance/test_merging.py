"""MATH-18: adapters merged into the base weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from conformance.judging.assertions import assert_outputs, observed
from conformance.judging.verdicts import Violation
from conformance.oracles.linear import expected_of
from conformance.subjects.building import call, flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import NotApplicable, NotExercised
from conformance.subjects.subject import Subject
from conformance.suite.checking import check
from conformance.values.linear import EXACT_LIMIT, CaseTensors, largest_sum, values_of
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.cases import AdapterSpec, Case, Regime
from strategies.drawing import cases
from strategies.forwards import Forward

MERGED, UNMERGED, FOR_GOOD = "after merging", "after unmerging", "after merging for good"
# A class that keeps a copy of its weight cannot be told that the weight has changed.
FORWARDS = tuple(forward for forward in Forward if forward is not Forward.CACHED_COPY)
# Two at most, so that what merging and unmerging round stays below what `error_bound` allows: each adds or takes away
# one product, rounded, for every adapter.
WEIGHTS = ((1.0, 1.0), (1.0, 2.0), (-1.0, 0.5))


def weights_of(case: Case) -> tuple[float, ...]:
    """The weight of each adapter in the sum; one adapter alone is merged as it is."""
    return WEIGHTS[case.seed % len(WEIGHTS)][: len(case.adapters)] if len(case.adapters) > 1 else (1.0,)


def summed(case: Case) -> tuple[Case, CaseTensors]:
    """One adapter that is the weighted sum of the case's, for every token: A one below the other, B side by side."""
    tensors = values_of(case)
    lora_a, lora_b = [], []
    for weight, adapter in zip(weights_of(case), tensors.adapters, strict=True):
        (part,) = adapter.parts
        assert part is not None
        lora_a.append(part.lora_a)
        lora_b.append(weight * adapter.scaling * part.lora_b)
    whole = LayerAdapter((SubAdapter(torch.cat(lora_a), torch.cat(lora_b, dim=1)),))
    rank = sum(adapter.rank for adapter in case.adapters)
    one = replace(
        case,
        adapters=(AdapterSpec(rank=rank, alpha=rank),),
        max_rank=rank,
        max_loras=1,
        tokens=(0,) * len(case.tokens),
    )
    return one, replace(tensors, adapters=(whole,))


def _of_two(case: Case) -> Case:
    """The same case without the third adapter and those after it."""
    return replace(case, adapters=case.adapters[:2], tokens=(0,) * len(case.tokens))


@check("MATH-18", cases(adapters=(1, 2), forwards=FORWARDS, without_adapter=False).map(_of_two))
def test_merged_weights_give_what_they_should_and_can_be_unmerged(subject: Subject, case: Case) -> None:
    if not hasattr(subject.implementation, "merge"):
        raise NotApplicable(f"{subject.implementation.name} merges no adapters into base weights")
    merged, tensors = summed(case)
    if case.regime is Regime.EXACT and 2 * largest_sum(merged, tensors) > EXACT_LIMIT[case.dtype]:
        raise NotExercised("the sum of the adapters is not exact")
    nobody = replace(merged, tokens=(-1,) * len(case.tokens))
    implementation: Any = subject.implementation
    slots = [adapter.slot for adapter in case.adapters]

    def program(rank: RankSession) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        rank.build().wrap().load()
        x, gate, weights = rank.input(), rank.tensors.gate.to(rank.input()), weights_of(case)

        def run(*, for_good: bool) -> list[Tensor]:
            layer = implementation.merge(rank.layer, slots, weights, for_good=for_good)
            if for_good and layer is not rank.base:
                raise Violation("merged-wrongly", f"merged for good, the layer is a {type(layer).__name__}", case)
            return [output.clone() for output in flatten(call(case, layer, x, gate))]

        once = run(for_good=False)
        implementation.unmerge(rank.layer)
        without = [output.clone() for output in flatten(rank.run(nobody.token_slots))]
        return once, without, run(for_good=True)

    seen = observed(subject, case, program)
    right, nothing = expected_of(subject, merged, tensors), expected_of(subject, nobody, tensors)
    # What was taken away again has rounded in proportion to what was there in between.
    bare = [replace(one, magnitudes=other.magnitudes) for one, other in zip(nothing, right, strict=True)]
    for index, (expected, when, name) in enumerate(
        ((right, MERGED, "merged-wrongly"), (bare, UNMERGED, "not-unmerged"), (right, FOR_GOOD, "merged-wrongly"))
    ):
        outputs = [rank[index] for rank in seen]
        assert_outputs(merged, outputs, expected, default=name, blamed=case, after=f", {when}")
