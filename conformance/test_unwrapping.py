"""UNWRAP: through wrappers to the quant method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from conformance.judging.assertions import assert_same_bits, observed, told
from conformance.judging.facts import Aspect, Difference, Place
from conformance.judging.verdicts import Violation
from conformance.oracles.quantized import probed_weight, weight_of
from conformance.subjects.building import BareWrapper, build_layer, load_weights, nest
from conformance.subjects.linear import RankSession
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from strategies.cases import Case, Quantization, WrapperKind
from strategies.drawing import cases
from strategies.quantization import ANY

T = TypeVar("T")
FORWARDING = (WrapperKind.FORWARDING,)
SILENT = (WrapperKind.BARE, WrapperKind.NONE)


def found_in(subject: Subject, case: Case, search: Callable[[nn.Module], T], outermost: nn.Module) -> T:
    """What ``search`` finds; to refuse where there is something to be found breaks the clause."""
    __tracebackhide__ = True
    try:
        return search(outermost)
    except subject.implementation.refusals as error:
        raise Violation("hidden-attribute", told(error, but=", though there is one"), case) from error


def assert_finds_the_quant_method(subject: Subject, case: Case) -> None:
    """The quant method found from outside is the base layer's own object."""
    __tracebackhide__ = True

    def program(rank: RankSession) -> None:
        own = rank.build().base.quant_method
        outermost = nest(rank.wrap().layer, case.nesting)
        found = found_in(subject, case, subject.implementation.quant_method_of, outermost)
        if found is not own:
            seen, right = (type(one).__name__ for one in (found, own))
            raise Violation("hidden-attribute", Difference(Aspect.OBJECT, seen, f"the base layer's {right}"), case)

    observed(subject, case, program)


@check("UNWRAP-1", cases(max_nesting=6, nestings=FORWARDING, tokens=(1, 1), adapters=(1, 1)))
def test_the_quant_method_is_found_from_any_depth(subject: Subject, case: Case) -> None:
    assert_finds_the_quant_method(subject, case)


@check("UNWRAP-2", cases(max_nesting=6, quantizations=ANY, tokens=(1, 1), adapters=(1, 1)))
def test_the_dense_weight_read_through_wrappers_is_the_bare_layers(subject: Subject, case: Case) -> None:
    def program(rank: RankSession) -> None:
        library = subject.implementation.layers
        rank.build()
        with library.ranked(rank.group):
            bare = build_layer(case, library, torch.float64)
            load_weights(case, library, bare, rank.tensors.weights, rank.tensors.biases)
            right = weight_of(bare).detach()
            if case.quantization is not Quantization.NONE:
                # What the kernel multiplies with: what is read bare and wrapped alike can be wrong too.
                right = probed_weight(rank.base, right.shape[1], case)
            outermost = nest(rank.wrap().layer, case.nesting)
            found = found_in(subject, case, subject.implementation.dense_weight, outermost)
        # A product cannot tell -0 from 0.
        found, right = found.cpu().double() + 0.0, right.cpu().double() + 0.0
        assert_same_bits(case, [found], [right], anomaly="hidden-attribute", place=Place(setting="the dense weight"))

    observed(subject, case, program)


@check("UNWRAP-3", cases(min_nesting=1, max_nesting=6, nestings=SILENT, tokens=(1, 1), adapters=(1, 1)))
def test_a_wrapper_without_a_quant_method_does_not_end_the_search(subject: Subject, case: Case) -> None:
    assert_finds_the_quant_method(subject, case)


MOST_READS = 1000  # of one module's children, in a search that ends


class Endless(BaseException):
    """Ends a search that does not end by itself, whatever it catches; a clock would depend on the machine."""


class Counted(dict[str, nn.Module | None]):
    """A module's children that may be looked up so often and no more."""

    reads = 0

    def _count(self) -> None:
        self.reads += 1
        if self.reads > MOST_READS:
            raise Endless

    def __getitem__(self, name: str) -> nn.Module | None:
        self._count()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._count()
        return super().get(name, default)


@check("UNWRAP-4", cases(min_nesting=1, max_nesting=6, tokens=(1, 1), adapters=(1, 1), tp_sizes=(1,), max_depth=0))
def test_a_chain_without_a_quant_method_or_that_loops_ends_in_a_clear_error(subject: Subject, case: Case) -> None:
    loops = case.seed % 2 == 1

    def program(rank: RankSession) -> None:
        innermost = BareWrapper(nn.Identity())
        innermost.__dict__["_modules"] = Counted(innermost._modules)
        outermost = nest(innermost, case.nesting)
        if loops:
            innermost.base_layer = outermost
        try:
            found = subject.implementation.quant_method_of(outermost)
        except subject.implementation.refusals:
            return
        except (RecursionError, AttributeError, AssertionError) as error:
            kind = "loops" if loops else "has no quant method"
            fact = told(error, but=f", but a chain that {kind} should end in an error that says so")
            raise Violation("unclear-refusal", fact, case) from error
        except Endless as error:
            raise Violation("endless-search", f"a chain that loops was followed {MOST_READS} times", case) from error
        raise Violation(
            "unclear-refusal", Difference(Aspect.OBJECT, type(found).__name__, "none, as there is none"), case
        )

    observed(subject, case, program)
