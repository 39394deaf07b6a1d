"""UNWRAP: through wrappers to the quant method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conformance.assertions import assert_same_bits, observed
from conformance.building import BareWrapper, build_layer, load_weights, nest
from conformance.checking import check
from conformance.subject import RankSession, Subject
from conformance.verdicts import violation
from strategies.cases import Case, Quantization, WrapperKind
from strategies.drawing import cases

FORWARDING = (WrapperKind.FORWARDING,)
SILENT = (WrapperKind.BARE, WrapperKind.NONE)


def assert_finds_the_quant_method(subject: Subject, case: Case) -> None:
    """The quant method found from outside is the base layer's own object."""
    __tracebackhide__ = True

    def program(rank: RankSession) -> None:
        own = rank.build().base.quant_method
        outermost = nest(rank.wrap().layer, case.nesting)
        found = subject.implementation.quant_method_of(outermost)
        if found is not own:
            raise violation("hidden-attribute", f"found {found!r}, but should be the base layer's {own!r}", case)

    observed(subject, case, program)


@check("UNWRAP-1", cases(max_nesting=6, nestings=FORWARDING, tokens=(1, 1), adapters=(1, 1)))
def test_the_quant_method_is_found_from_any_depth(subject: Subject, case: Case) -> None:
    assert_finds_the_quant_method(subject, case)


@check("UNWRAP-2", cases(max_nesting=6, quantizations=tuple(Quantization), tokens=(1, 1), adapters=(1, 1)))
def test_the_dense_weight_read_through_wrappers_is_the_bare_layers(subject: Subject, case: Case) -> None:
    def program(rank: RankSession) -> None:
        library = subject.implementation.layers
        rank.build()
        with library.ranked(rank.group):
            bare = build_layer(case, library, torch.float64)
            load_weights(case, library, bare, rank.tensors.weights, rank.tensors.biases)
            found = subject.implementation.dense_weight(nest(rank.wrap().layer, case.nesting))
        right: Tensor = bare.weight.detach()  # type: ignore[union-attr,operator]
        if case.quantization is not Quantization.NONE:
            right = subject.implementation.dense_weight(rank.base).clone()
        assert_same_bits(
            case, [found.cpu().double()], [right.cpu().double()], anomaly="hidden-attribute", what="the dense weight"
        )

    observed(subject, case, program)


@check("UNWRAP-3", cases(min_nesting=1, max_nesting=6, nestings=SILENT, tokens=(1, 1), adapters=(1, 1)))
def test_a_wrapper_without_a_quant_method_does_not_end_the_search(subject: Subject, case: Case) -> None:
    assert_finds_the_quant_method(subject, case)


@check("UNWRAP-4", cases(min_nesting=1, max_nesting=6, tokens=(1, 1), adapters=(1, 1), tp_sizes=(1,), max_depth=0))
def test_a_chain_without_a_quant_method_or_that_loops_ends_in_a_clear_error(subject: Subject, case: Case) -> None:
    loops = case.seed % 2 == 1

    def program(rank: RankSession) -> None:
        innermost = BareWrapper(nn.Identity())
        outermost = nest(innermost, case.nesting)
        if loops:
            innermost.base_layer = outermost
        try:
            found = subject.implementation.quant_method_of(outermost)
        except subject.implementation.refusals:
            return
        except (RecursionError, AttributeError, AssertionError) as error:
            kind = "loops" if loops else "has no quant method"
            message = f"a chain that {kind} ended in {type(error).__name__}, but should end in an error that says so"
            raise violation("unclear-refusal", message, case) from error
        raise violation("unclear-refusal", f"found {found!r} where there is none", case)

    observed(subject, case, program)
