"""MATH: the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.linear import explain
from conformance.judging.anomalies.partial_sums import together
from conformance.judging.assertions import (
    assert_merged_equivalence,
    assert_outputs,
    assert_same_bits,
    assert_same_shapes,
    first_difference,
    observed,
    outputs_of,
)
from conformance.judging.facts import AFTER_A_RESET, Place
from conformance.judging.presumption import complete
from conformance.judging.verdicts import Violation
from conformance.oracles.dense import assembled, dense_output, keeps_columns
from conformance.oracles.linear import expected_of
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import HarnessError, SubjectRefused
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from conformance.values.linear import poisoned
from lora_compat.adapters import LayerAdapter
from lora_compat.families import Family
from strategies.cases import Case, Dtype, Layout, Regime
from strategies.drawing import cases
from strategies.forwards import Forward

PACKED = (Family.MERGED_COLUMN, Family.QKV)
NARROW = (Dtype.BFLOAT16, Dtype.FLOAT16)
# Forwards that keep one column per output row, so that ranks can be put together again.
COLUMNWISE = tuple(forward for forward in Forward if keeps_columns(forward))


# What a size alone breaks is found here, as other clauses presume that an adapter by itself is served rightly.
@check("MATH-1", cases(adapters=(1, 1), without_adapter=False, large=3).map(complete))
def test_one_adapter_gives_what_merged_weights_give(subject: Subject, case: Case) -> None:
    assert_merged_equivalence(subject, case)


def _mixed(case: Case) -> Case:
    """At least two tokens with different adapters."""
    other = (case.tokens[0] + 2) % (len(case.adapters) + 1) - 1
    return replace(case, tokens=(*case.tokens, other))


@check("MATH-2", cases(adapters=(2, 3), tokens=(1, 5)).map(_mixed))
def test_every_token_of_a_mixed_batch_gets_its_own_adapter(subject: Subject, case: Case) -> None:
    outputs = assert_merged_equivalence(subject, case)
    order = list(range(len(case.tokens)))[::-1]

    def permuted(rank: RankSession) -> list[Tensor]:
        # The same layer first serves the tokens as they are: a mapping it keeps would show.
        rank.build().wrap().load().run()
        slots = tuple(case.token_slots[index] for index in order)
        rank.tensors = replace(rank.tensors, gate=rank.tensors.gate[order])
        return flatten(rank.run(slots, rank.input()[order]))

    if case.regime is Regime.ROUNDED or case.subclass.forward.mixes_tokens:
        return  # another order may round, or mix, another way; the equivalence above holds for any order
    by_token = [right.by_token for right in expected_of(subject, case)]
    for before, after, counts in zip(outputs, observed(subject, case, permuted), by_token, strict=True):
        moved = [one[order] if here else one for one, here in zip(before, counts, strict=True)]
        assert_same_bits(case, after, moved, anomaly="order-dependent", place=Place(setting="tokens in reverse order"))


def _with_a_token_without(case: Case) -> Case:
    """One token more, without an adapter, anywhere among the others."""
    place = len(case.tokens) - case.seed % (len(case.tokens) + 1)
    return replace(case, tokens=(*case.tokens[:place], -1, *case.tokens[place:]))


@check("MATH-3", cases(tokens=(1, 5), without_adapter=False).map(_with_a_token_without))
def test_a_token_without_an_adapter_keeps_the_bits_of_the_base_layer(subject: Subject, case: Case) -> None:
    def program(rank: RankSession) -> tuple[list[Tensor], list[Tensor]]:
        bare = [output.clone() for output in flatten(rank.build().run())]
        return bare, flatten(rank.wrap().load().run(as_is=True))

    without = [index for index, adapter in enumerate(case.tokens) if adapter < 0]
    for (bare, mixed), right in zip(observed(subject, case, program), expected_of(subject, case), strict=True):
        assert_same_shapes(case, mixed, bare)
        for before, after, by_token in zip(bare, mixed, right.by_token, strict=True):
            if by_token:
                place = Place(tokens=tuple(without))
                assert_same_bits(case, [after[without]], [before[without]], anomaly="adapter-leak", place=place)


@check("MATH-4", cases(adapters=(1, 1), max_ranks=(32, 64), ranks=(1, 8, 16), without_adapter=False))
def test_a_small_adapter_in_a_large_slot_gives_what_it_gives_in_its_own(subject: Subject, case: Case) -> None:
    assert_merged_equivalence(subject, case)
    assert_merged_equivalence(subject, replace(case, max_rank=case.adapters[0].rank))


@check("MATH-5", cases(adapters=(1, 2), tokens=(1, 4)))
def test_nothing_of_a_slots_former_adapter_shows(subject: Subject, case: Case) -> None:
    expected = expected_of(subject, case)

    def program(rank: RankSession) -> tuple[list[Tensor], list[Tensor]]:
        rank.build().wrap().load_adapters(poisoned(case))
        reused = [output.clone() for output in flatten(rank.load().run())]
        rank.load_adapters(poisoned(case)).reset()
        return reused, flatten(rank.run())

    seen = observed(subject, case, program)
    assert_outputs(case, [reused for reused, _ in seen], expected, subject=subject, default="stale-slot")
    emptied = replace(case, tokens=(-1,) * len(case.tokens))
    outputs = [reset for _, reset in seen]
    assert_outputs(
        emptied, outputs, expected_of(subject, emptied), default="stale-slot", blamed=case, after=AFTER_A_RESET
    )


@check("MATH-6", cases(forwards=COLUMNWISE, tp_sizes=(2, 4, 8), disable_tp=False, without_adapter=False))
def test_the_result_depends_neither_on_tp_size_nor_on_sharding(subject: Subject, case: Case) -> None:
    right = dense_output(case)
    for variant in (
        case,
        replace(case, fully_sharded=not case.fully_sharded),
        replace(case, tp_size=1, fully_sharded=False),
    ):
        if subject.implementation.unsupported(variant) is not None:
            continue
        if not case.subclass.keeps_layout:  # nobody can put its ranks together: each must be right by itself
            assert_merged_equivalence(subject, variant, needs_signal=False)
            continue
        seen = outputs_of(subject, variant)
        whole = assembled(variant, [outputs[0] for outputs in seen])
        difference = first_difference(variant, [whole], right)
        if difference is not None:
            mode = f"TP {variant.tp_size}, fully_sharded={variant.fully_sharded}"
            raise Violation(_sharding_mistake(subject, variant, seen), difference, variant, Place(setting=mode))


def _sharding_mistake(subject: Subject, case: Case, seen: list[list[Tensor]]) -> str:
    """The known mistake that gives what the ranks returned; ``tp-dependent`` for none, or one of the base layer."""
    try:
        actual, expected = together(case, seen, expected_of(subject, case))
    except HarnessError:
        return "tp-dependent"
    if all(first_difference(case, *rank) is None for rank in zip(actual, expected, strict=True)):
        return "tp-dependent"
    name = explain(case, actual, expected, subject)
    return "tp-dependent" if name == UNEXPLAINED else name


@check("MATH-7", cases(layouts=tuple(Layout), tokens=(0, 6)))
def test_any_layout_is_served_and_nothing_handed_in_is_written_to(subject: Subject, case: Case) -> None:
    def program(rank: RankSession) -> list[Tensor]:
        rank.build().wrap()
        handed = rank.handed_adapters()
        before = [tensor.clone() for tensor in tensors_in(handed)]
        rank.load_adapters(handed)
        x = rank.input()
        kept = x.clone()
        outputs = flatten(rank.run(x=x))
        assert_same_bits(
            case, [x], [kept], anomaly="input-written", place=Place(setting="the input after the forward")
        )
        assert_same_bits(
            case, tensors_in(handed), before, anomaly="adapter-written", place=Place(setting="the adapter's tensors")
        )
        return outputs

    try:
        seen = observed(subject, case, program)
    except SubjectRefused as refusal:
        if case.layout is Layout.TWO_D:
            raise
        outputs_of(subject, replace(case, layout=Layout.TWO_D))  # refused whatever the layout?
        raise Violation("layout-refused", f"served in 2-D, but not as {case.layout!r}: {refusal}", case) from refusal
    assert_outputs(case, seen, expected_of(subject, case), subject=subject, default=partial(_by_layout, subject, case))


def _by_layout(subject: Subject, case: Case) -> str:
    """Whether it is the layout alone, as the same tokens are served rightly in two plain dimensions."""
    try:
        assert_merged_equivalence(subject, replace(case, layout=Layout.TWO_D), needs_signal=False)
    except (Violation, SubjectRefused):
        return UNEXPLAINED
    return UNEXPLAINED if case.layout is Layout.TWO_D else "layout-dependent"


def tensors_in(adapters: Sequence[LayerAdapter]) -> list[Tensor]:
    """The tensors of some adapters."""
    parts = [part for adapter in adapters for part in adapter.parts if part is not None]
    return [tensor for part in parts for tensor in (part.lora_a, part.lora_b)]


@check("MATH-8", cases(families=PACKED, min_outputs=2, without_adapter=False))
def test_each_sub_adapter_of_a_packed_layer_lands_in_its_own_slice(subject: Subject, case: Case) -> None:
    assert_merged_equivalence(subject, case)


@check("MATH-9", cases(biases=(True,)))
def test_the_bias_is_added_once_or_handed_back(subject: Subject, case: Case) -> None:
    assert_merged_equivalence(subject, case, needs_signal=False)


@check("MATH-10", cases(dtypes=NARROW, regimes=(Regime.ROUNDED,), without_adapter=False))
def test_narrow_dtypes_stay_inside_the_derived_bound(subject: Subject, case: Case) -> None:
    assert_merged_equivalence(subject, case)


@check("MATH-12", cases(adapters=(1, 1), scalings=(4.0, 0.5, 2.0), regimes=(Regime.EXACT,), without_adapter=False))
def test_scaling_is_applied_exactly_once(subject: Subject, case: Case) -> None:
    assert_merged_equivalence(subject, case)


@check("MATH-13", cases(tokens=(1, 6)))
def test_the_same_call_twice_gives_the_same_bits(subject: Subject, case: Case) -> None:
    def program(rank: RankSession) -> tuple[list[Tensor], list[Tensor]]:
        first = [output.clone() for output in flatten(rank.build().wrap().load().run())]
        return first, flatten(rank.run())

    for first, second in observed(subject, case, program):
        assert_same_bits(case, second, first, anomaly="not-repeatable", place=Place(setting="the second call"))
