"""MATH-11, MATH-17, WRAP-8: base layers that store their weight quantized."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from conformance.implementations.schemes import METHODS
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.assertions import assert_merged_equivalence, assert_outputs, first_difference, observed
from conformance.judging.facts import Aspect, Difference, Place
from conformance.judging.verdicts import Violation
from conformance.oracles.linear import Expected, expected_of
from conformance.oracles.quantized import checkpoint_weight, probed_weight, quantization_error, weight_of
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from conformance.values.linear import product_alone, values_of
from strategies.cases import Case, Quantization, Regime
from strategies.classes import UNCHANGED
from strategies.drawing import cases
from strategies.forwards import Forward
from strategies.quantization import OF_ACTIVATIONS, SCALED_BY_ROW, WEIGHT_ONLY, several_words

DELEGATING = tuple(forward for forward in Forward if not forward.multiplies_itself)


def assert_faithful(subject: Subject, case: Case) -> None:
    """The base layer multiplies with its checkpoint's weight, but for what its scheme cannot hold."""
    __tracebackhide__ = True

    def program(rank: RankSession) -> tuple[Tensor, Tensor]:
        library = subject.implementation.layers
        rank.build()
        with library.ranked(rank.group):
            dense = checkpoint_weight(case, rank.tensors, library)
            return dense, probed_weight(rank.base, dense.shape[1], case)

    for rank, (dense, probed) in enumerate(observed(subject, case, program)):
        excess = ((probed - dense).abs() - quantization_error(case, dense)).nan_to_num(torch.inf)
        if bool((excess > 0).any()):
            row, column = divmod(int(excess.argmax()), dense.shape[1])
            seen, right = (float(one[row, column]) for one in (probed, dense))
            difference = Difference(Aspect.VALUE, seen, right, element=(row, column), name="weight")
            raise Violation("base-misquantized", difference, case, Place(rank=rank))


@check("MATH-11", cases(forwards=DELEGATING, quantizations=WEIGHT_ONLY, without_adapter=False).map(several_words))
def test_a_quantized_base_layer_gives_what_its_dequantized_operands_give(subject: Subject, case: Case) -> None:
    assert_faithful(subject, case)
    assert_merged_equivalence(subject, case)


@check("MATH-17", cases(forwards=DELEGATING, quantizations=OF_ACTIVATIONS, without_adapter=False))
def test_adapters_see_the_activations_before_a_kernel_quantizes_them(subject: Subject, case: Case) -> None:
    assert_faithful(subject, case)
    assert_merged_equivalence(subject, case)


@check("WRAP-8", cases(adapters=(1, 2), forwards=UNCHANGED, disable_tp=False, quantizations=WEIGHT_ONLY))
def test_a_sibling_that_dequantizes_the_weight_gets_the_adapter_or_is_reported(subject: Subject, case: Case) -> None:
    if case.quantization is Quantization.NONE:
        raise NotExercised("the weight is not stored quantized")
    alone = product_alone(case)

    def program(rank: RankSession) -> tuple[Tensor, Tensor | None] | None:
        rank.build().wrap().load()
        with subject.implementation.layers.ranked(rank.group):
            subject.implementation.select(rank.layer, case.token_slots)
            try:
                (output,) = flatten(dequantized_product(case, rank.layer, rank.local_input()))
            except subject.implementation.refusals:
                return None  # reported
            return output, scale_after(case, rank.base)

    seen = observed(subject, case, program)
    served = [one for one in seen if one is not None]
    if not served:
        return
    if len(served) < len(seen):
        raise Violation("weight-stolen", f"reported on {len(seen) - len(served)} of {len(seen)} ranks only", case)
    expected = expected_of(subject, alone, replace(values_of(case), biases=()))
    name = partial(_stolen, alone, served, expected)
    assert_outputs(alone, [[output] for output, _ in served], expected, default=name)


def _stolen(case: Case, served: list[tuple[Tensor, Tensor | None]], expected: list[Expected]) -> str:
    """What a sibling got: its product without adapters, or with a contribution that it multiplied with its scale."""
    ranks = [(output, scale, right) for (output, scale), right in zip(served, expected, strict=True)]
    if all(first_difference(case, [output], replace(right, values=right.base)) is None for output, _, right in ranks):
        return "weight-stolen"
    # Where the sum comes before the scale it rounds, in the exact regime, too.
    rounded = replace(case, regime=Regime.ROUNDED)
    scaled = all(
        scale is not None and first_difference(rounded, [output], _with_scaled_delta(right, scale.double())) is None
        for output, scale, right in ranks
    )
    return "scale-wrong" if scaled else UNEXPLAINED


def _with_scaled_delta(right: Expected, scale: Tensor) -> Expected:
    """One rank's answer with its contribution multiplied by ``scale [rows]``."""
    (base,), delta = right.base, (right.values[0] - right.base[0]) * scale
    magnitudes = right.magnitudes or (base.abs() + delta.abs(),)
    return replace(right, values=(base + delta,), magnitudes=magnitudes)


def scale_after(case: Case, layer: nn.Module) -> Tensor | None:
    """What the sibling multiplies its product with ``[local rows]``, where it does not scale the weight before."""
    if case.quantization not in SCALED_BY_ROW or not case.seed % 2:
        return None
    scale = layer.weight_scale
    assert isinstance(scale, Tensor)
    return scale.flatten()


def dequantized_product(case: Case, layer: nn.Module, x: Tensor) -> Tensor:
    """A fused fast path: multiplies with the stored weight from outside, scales before or after the product."""
    scale = scale_after(case, layer)
    if scale is not None:
        return functional.linear(x, weight_of(layer).to(x.dtype)) * scale.to(x.dtype)
    return functional.linear(x, METHODS[case.quantization]().dequantize(layer))
