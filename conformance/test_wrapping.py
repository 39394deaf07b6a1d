"""WRAP: dispatch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from conformance.judging.assertions import assert_outputs, assert_same_bits, first_difference, observed
from conformance.judging.facts import Aspect, Difference, Place, Unwrapped, without_addresses
from conformance.judging.presumption import complete
from conformance.judging.verdicts import Violation
from conformance.oracles.linear import expected_of
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession, deployment_of
from conformance.subjects.outcomes import NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from conformance.subjects.trees import STRANGERS, made
from conformance.suite.clauses import check
from conformance.values.linear import product_alone, values_of
from lora_compat.families import Family
from strategies.cases import Case
from strategies.classes import OVERRIDDEN, UNCHANGED
from strategies.drawing import cases
from strategies.quantization import ANY

NO_TOKENS_ADAPTED = (-1,)
# What kernels and model code read off a linear layer (vllm #53361).
READ_BY_KERNELS = (
    "weight",
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
    "qweight",
    "scales",
    "bias",
    "quant_method",
    "input_size",
    "in_features",
    "output_size",
    "out_features",
    "tp_size",
    "tp_rank",
    "output_sizes",
    "output_partition_sizes",
)


def assert_wrapped(subject: Subject, case: Case) -> None:
    """Every rank's layer is replaced."""
    __tracebackhide__ = True
    try:
        observed(subject, case, lambda rank: rank.build().wrap() and None)
    except NotWrapped as error:
        raise Violation("not-wrapped", Unwrapped(error.family, error.subclass), case) from error


@check("WRAP-1", cases(forwards=UNCHANGED, tokens=(1, 1), adapters=(1, 1)))
def test_a_subclass_that_keeps_its_forward_is_wrapped(subject: Subject, case: Case) -> None:
    try:
        assert_wrapped(subject, case)
    except SubjectRefused as error:
        family, depth = case.layer.family.value, case.subclass.depth
        raise Violation("not-wrapped", Unwrapped(family, depth > 0, why=str(error)), case) from error


@check("WRAP-2", cases(forwards=OVERRIDDEN, tokens=(1, 1), adapters=(1, 1)))
def test_a_subclass_with_its_own_forward_is_wrapped(subject: Subject, case: Case) -> None:
    assert_wrapped(subject, case)


@check("WRAP-3", cases(tokens=(1, 1), adapters=(1, 1)))
def test_exactly_one_lora_class_claims_a_layer(subject: Subject, case: Case) -> None:
    assert_one_claimant(subject, case)


# Most claims that overlap are about packed layers; a class that derives deeper hides them where none claims it.
@check(
    "WRAP-3",
    cases(families=(Family.MERGED_COLUMN, Family.QKV), min_outputs=2, max_depth=1, tokens=(1, 1), adapters=(1, 1)),
)
def test_exactly_one_lora_class_claims_a_packed_layer(subject: Subject, case: Case) -> None:
    assert_one_claimant(subject, case)


def assert_one_claimant(subject: Subject, case: Case) -> None:
    """Of all LoRA layer classes one, and no other, would take the layer."""
    __tracebackhide__ = True

    def program(rank: RankSession) -> tuple[str, ...]:
        return subject.implementation.claimants(rank.build().base, deployment_of(case))

    for claimants in observed(subject, case, program):
        if len(claimants) > 1:
            raise Violation("order-dependent", f"claimed by {', '.join(claimants)}, but should be by one", case)
        if not claimants:
            raise NotWrapped(case.layer.family.value, said="no class claims it (see WRAP-1)")


@check("WRAP-4", cases(quantizations=ANY, adapters=(1, 2)).map(complete))
def test_a_wrapped_layer_without_active_adapters_is_transparent(subject: Subject, case: Case) -> None:
    def program(rank: RankSession) -> None:
        bare = rank.build().run()
        before = [output.clone() for output in flatten(bare)]
        storages = {name: tensor.data_ptr() for name, tensor in rank.base.named_parameters()}
        known = {name: getattr(rank.base, name) for name in READ_BY_KERNELS if hasattr(rank.base, name)}
        rank.wrap().load()
        result = rank.run(slots=NO_TOKENS_ADAPTED * len(case.tokens))
        if shape_of(result) != shape_of(bare):
            difference = Difference(Aspect.RESULT, str(shape_of(result)), str(shape_of(bare)))
            raise Violation("base-changed", difference, case)
        assert_same_bits(
            case, flatten(result), before, anomaly="base-changed", place=Place(setting="wrapped, no adapter active")
        )
        assert_reachable(case, rank.layer, known)
        after = {name: tensor.data_ptr() for name, tensor in rank.base.named_parameters()}
        if after != storages:
            raise Violation("base-changed", "wrapping moved the base layer's parameters to other storages", case)

    observed(subject, case, program)


def shape_of(result: object) -> object:
    """A result's type, down to its leaves: tensor, None, or a tuple of them."""
    if isinstance(result, (tuple, list)):
        return tuple(shape_of(item) for item in result)
    return "tensor" if isinstance(result, Tensor) else result


def assert_reachable(case: Case, layer: nn.Module, known: dict[str, object]) -> None:
    """Attributes that kernels read are the base layer's, read through the LoRA layer."""
    __tracebackhide__ = True
    for name, value in known.items():
        try:
            found = getattr(layer, name)
        except AttributeError as error:
            raise Violation("hidden-attribute", f"layer.{name} is not reachable: {error}", case) from error
        same = found is value or (not isinstance(value, Tensor) and found == value)
        if isinstance(value, Tensor) and isinstance(found, Tensor):
            same = found.data_ptr() == value.data_ptr() and found.shape == value.shape
        if not same:
            seen, right = without_addresses(found), without_addresses(value)
            raise Violation("hidden-attribute", Difference(Aspect.ATTRIBUTE, seen, right, name=name), case)


@check("WRAP-5", cases(adapters=(1, 1), without_adapter=False).map(complete))
def test_wrapping_twice_applies_an_adapter_once(subject: Subject, case: Case) -> None:
    def program(rank: RankSession) -> list[Tensor]:
        rank.build().wrap()
        with subject.implementation.layers.ranked(rank.group):
            again = subject.implementation.wrap(rank.layer, deployment_of(case))
        rank.layer = again if again is not None else rank.layer
        return flatten(rank.load().run())

    seen = observed(subject, case, program)
    assert_outputs(case, seen, expected_of(subject, case), subject=subject, default="wrapped-twice")


@check("WRAP-6", cases(tokens=(1, 1), adapters=(1, 1), tp_sizes=(1,), max_depth=0))
def test_a_module_that_is_no_linear_layer_is_left_alone_or_refused(subject: Subject, case: Case) -> None:
    own = subject.implementation.layers.bases
    foreign = [text for text in STRANGERS if not isinstance(made(text), own)]

    def program(rank: RankSession) -> None:
        module = made(foreign[case.seed % len(foreign)])
        kind = type(module).__name__
        before = list(module.state_dict().items())
        try:
            wrapped = subject.implementation.wrap(module, deployment_of(case))
        except subject.implementation.refusals as error:
            if kind not in str(error):
                raise Violation("unclear-refusal", f"refused {kind} without naming it: {error}", case) from error
        else:
            if wrapped is not None and wrapped is not module:
                raise Violation("not-refused", f"{kind} was wrapped as {type(wrapped).__name__}", case)
        if [name for name, _ in module.state_dict().items()] != [name for name, _ in before]:
            raise Violation("base-changed", f"{kind} was changed by a refused wrap", case)

    observed(subject, case, program)


@check("WRAP-7", cases(adapters=(1, 2), forwards=UNCHANGED, disable_tp=False).map(complete))
def test_a_sibling_that_reads_the_weight_gets_the_adapter_or_is_reported(subject: Subject, case: Case) -> None:
    alone = product_alone(case)

    def program(rank: RankSession) -> list[Tensor]:
        rank.build().wrap().load()
        with subject.implementation.layers.ranked(rank.group):
            subject.implementation.select(rank.layer, case.token_slots)
            return flatten(sibling_product(rank.layer, rank.local_input(), case.seed))

    seen = observed(subject, case, program)
    expected = expected_of(subject, alone, replace(values_of(case), biases=()))
    bare = [replace(right, values=right.base) for right in expected]
    dropped = all(first_difference(alone, one, right) is None for one, right in zip(seen, bare, strict=True))
    assert_outputs(alone, seen, expected, default="weight-stolen" if dropped else "unexplained")


def sibling_product(layer: nn.Module, x: Tensor, way: int) -> Tensor:
    """A fused fast path: multiplies with the layer's weight from outside, in one of several ways."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if way % 3 == 0:
        return functional.linear(x, weight)
    if way % 3 == 1:
        return torch.matmul(x, weight.t())
    half = weight.shape[0] // 2
    return torch.cat([functional.linear(x, weight[:half]), functional.linear(x, weight[half:])], dim=-1)
