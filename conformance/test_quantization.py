"""MATH-11, MATH-17, WRAP-8: base layers that store their weight quantized."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from conformance.implementations.schemes import METHODS
from conformance.judging.assertions import assert_merged_equivalence, assert_outputs, observed
from conformance.judging.facts import Aspect, Difference, Place
from conformance.judging.verdicts import Violation
from conformance.oracles.linear import expected_of
from conformance.oracles.quantized import checkpoint_weight, probed_weight, quantization_error, weight_of
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from conformance.values.linear import product_alone, values_of
from strategies.cases import Case, Quantization
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
        excess = (probed - dense).abs() - quantization_error(case, dense)
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

    def program(rank: RankSession) -> list[Tensor] | None:
        rank.build().wrap().load()
        with subject.implementation.layers.ranked(rank.group):
            subject.implementation.select(rank.layer, case.token_slots)
            try:
                return flatten(dequantized_product(case, rank.layer, rank.local_input()))
            except subject.implementation.refusals:
                return None  # reported

    seen = observed(subject, case, program)
    served = [outputs for outputs in seen if outputs is not None]
    if not served:
        return
    if len(served) < len(seen):
        raise Violation("weight-stolen", f"reported on {len(seen) - len(served)} of {len(seen)} ranks only", case)
    expected = expected_of(subject, alone, replace(values_of(case), biases=()))
    dropped = all(torch.equal(one.double(), right.base[0]) for (one,), right in zip(served, expected, strict=True))
    assert_outputs(alone, served, expected, default="weight-stolen" if dropped else "unexplained")


def dequantized_product(case: Case, layer: nn.Module, x: Tensor) -> Tensor:
    """A fused fast path: multiplies with the stored weight from outside, scales before or after the product."""
    after = case.quantization in SCALED_BY_ROW
    if after and case.seed % 2:
        scale = layer.weight_scale
        assert isinstance(scale, Tensor)
        return functional.linear(x, weight_of(layer).to(x.dtype)) * scale.flatten().to(x.dtype)
    return functional.linear(x, METHODS[case.quantization]().dequantize(layer))
