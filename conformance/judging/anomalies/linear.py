"""What happened, by name: computes what each known mistake would have given, and names the one that matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.judging.anomalies import UNEXPLAINED, unexplained_if_it_fails
from conformance.judging.anomalies.mistakes import (
    bias_mistakes,
    cut_short,
    mixed_up,
    reordered,
    scaled,
    scaling_mistakes,
    without_adapters,
    without_roots,
)
from conformance.judging.anomalies.partial_sums import summed_over_ranks, sums_partials
from conformance.judging.anomalies.rank_mistakes import PerRank, rank_mistakes
from conformance.judging.anomalies.traits import common_trait, misshapen, tolerance
from conformance.oracles.linear import Expected, expected_on
from conformance.subjects.subject import Subject
from conformance.values.linear import CaseTensors, values_of
from strategies.cases import Case
from strategies.forwards import Forward
from strategies.quantization import OF_ACTIVATIONS

Outputs = list[list[Tensor]]


@unexplained_if_it_fails
def explain(
    case: Case, actual: Outputs, expected: list[Expected], subject: Subject, tensors: CaseTensors | None = None
) -> str:
    """The name of the first known mistake that gives exactly what was seen; ``unexplained`` if none does.

    First come the mistakes whose whole outcome can be computed, then tokens that were served another adapter, then
    what the wrong elements have in common. ``tensors`` are the case's own unless given.
    """
    if any(map(misshapen, actual, expected)):
        return "gather-inflated" if case.tp_size > 1 and case.tokens else "base-forward-bypassed"
    values = tensors or values_of(case)
    for name, would_be in _mistakes(case, values, actual, expected, subject):
        if would_be is None or not _matches(case, actual, would_be, expected):
            continue
        if not _matches(case, would_be, [right.values for right in expected], expected, slack=1):
            return name  # what would itself be right explains nothing
    by_row = _by_row(case, values, actual, expected, subject)
    return by_row if by_row != UNEXPLAINED else common_trait(case, actual, expected) or UNEXPLAINED


def _mistakes(
    case: Case, tensors: CaseTensors, actual: Outputs, expected: list[Expected], subject: Subject
) -> Iterator[tuple[str, list[tuple[Tensor, ...]] | None]]:
    """Each known mistake with what every rank would have returned."""
    oracle = partial(_returned, subject, case)
    yield "delta-dropped", [right.base for right in expected]
    if case.quantization in OF_ACTIVATIONS:
        yield "delta-behind-quantizer", oracle(tensors, behind=True)
    bypassed: list[tuple[Tensor, ...]] | None = None
    if _has_own_forward(case):
        plain = _with_plain_forward(case)
        bypassed = oracle(tensors, plain)
        # Before the scalings, which a forward that multiplies by 2 resembles: shrinking takes away a forward that is
        # not to blame.
        yield "delta-outside-forward", _outside(bypassed, oracle(without_adapters(tensors), plain), expected)
    # Where √r is the scaling, or its inverse, a root that was left out gives what the next two give; they show without
    # roots, too.
    if any(spec.rslora for spec in case.adapters):
        yield "scale-wrong", oracle(without_roots(case, tensors))
    # A scaling of 2 (or a half) makes these coincide; a doubled contribution is found without any scaling, too.
    yield "scale-twice", oracle(scaled(tensors, lambda s: s * s))
    yield "scale-dropped", oracle(scaled(tensors, lambda s: 1.0))
    yield "delta-doubled", oracle(scaled(tensors, lambda s: 2 * s))
    for name, factor in bias_mistakes(case):
        yield name, oracle(replace(tensors, biases=tuple(bias * factor for bias in tensors.biases)))
    if tensors.biases and case.layer.skip_bias_add:
        added = oracle(tensors, replace(case, layer=replace(case.layer, skip_bias_add=False)))
        yield (
            "bias-not-skipped",
            added and [(*some, *right.values[len(some) :]) for some, right in zip(added, expected, strict=True)],
        )
    yield "base-forward-bypassed", bypassed
    for other in scaling_mistakes(case, tensors):
        yield "scale-wrong", oracle(other)
    for swapped in reordered(case, tensors):
        yield "slices-swapped", oracle(swapped)
    for name, per_rank in rank_mistakes(case, tensors):
        yield name, oracle(per_rank)
    for moved in _misplaced(expected) if len(actual) > 1 else ():
        yield "shard-misplaced", moved
    for other in mixed_up(tensors):
        yield "slices-swapped", oracle(other)
    for other in cut_short(case, tensors):
        yield "delta-incomplete", oracle(other)


def _returned(
    subject: Subject,
    case: Case,
    changed: CaseTensors | PerRank,
    other: Case | None = None,
    *,
    behind: bool = False,
) -> list[tuple[Tensor, ...]] | None:
    """What every rank would return with other tensors, or as another case; None where that cannot be."""

    def on_rank(group: RankGroup) -> Expected:
        own = changed(group.rank) if callable(changed) else changed
        return expected_on(other or case, own, subject.implementation.layers, group, behind_quantizer=behind)

    try:
        return _combined(case, subject.engine.run(case.tp_size, on_rank))
    except Exception:
        return None


def _misplaced(expected: list[Expected]) -> Iterator[list[tuple[Tensor, ...]] | None]:
    """What ranks return that add each other's part of the adapter."""
    deltas = [tuple(value - base for value, base in zip(right.values, right.base, strict=True)) for right in expected]
    for shift in range(1, len(deltas)):
        yield _added(expected, [*deltas[shift:], *deltas[:shift]])
    yield _added(expected, deltas[::-1])
    yield _added(expected, [deltas[0]] * len(deltas))


def _outside(
    plain: list[tuple[Tensor, ...]] | None, plain_base: list[tuple[Tensor, ...]] | None, expected: list[Expected]
) -> list[tuple[Tensor, ...]] | None:
    """The class's own forward of the base product, and the bare contribution on top of it."""
    if plain is None or plain_base is None or len(plain) != len(expected):
        return None
    found = []
    for right, with_adapters, without in zip(expected, plain, plain_base, strict=True):
        delta = with_adapters[0] - without[0]
        found.append(tuple(base + delta if base.shape == delta.shape else base for base in right.base))
    return found


def _by_row(case: Case, tensors: CaseTensors, actual: Outputs, expected: list[Expected], subject: Subject) -> str:
    """Mistakes that concern some tokens only: another adapter than the token's own, inside the forward or outside."""
    served_with = [
        (adapter, outputs)
        for adapter in (-1, *range(len(case.adapters)))
        for outputs in _served_with(case, tensors, subject, expected, adapter)
        if outputs is not None
    ]
    names = set()
    for token, own in enumerate(case.tokens):
        if _row_matches(case, actual, [right.values for right in expected], expected, token):
            continue
        served = {adapter for adapter, outputs in served_with if _row_matches(case, actual, outputs, expected, token)}
        if not served:
            return UNEXPLAINED
        names.add(_name_of_row(own, served))
    names = names - {"delta-outside-forward"} or names  # of some tokens: of the others it is not all
    return names.pop() if len(names) == 1 else "wrong-slot" if names else UNEXPLAINED


def _name_of_row(own: int, served: set[int]) -> str:
    """What befell a wrong token that these adapters explain; its own one can only outside the forward."""
    if own < 0:
        return "adapter-leak"
    return "delta-dropped" if -1 in served else "delta-outside-forward" if own in served else "wrong-slot"


def _served_with(
    case: Case, tensors: CaseTensors, subject: Subject, expected: list[Expected], adapter: int
) -> Iterator[list[tuple[Tensor, ...]] | None]:
    """All tokens with one adapter; and the class's own forward of the base, with that adapter's contribution added."""
    alone = replace(case, tokens=(adapter,) * len(case.tokens))
    yield _returned(subject, alone, tensors)
    if _has_own_forward(case) and adapter >= 0:
        plain = partial(_returned, subject, _with_plain_forward(alone))
        yield _outside(plain(tensors), plain(without_adapters(tensors)), expected)


def _has_own_forward(case: Case) -> bool:
    return case.subclass.forward not in (Forward.INHERITED, Forward.OWN)


def _with_plain_forward(case: Case) -> Case:
    return replace(case, subclass=replace(case.subclass, forward=Forward.INHERITED))


def _combined(case: Case, runs: list[Expected]) -> list[tuple[Tensor, ...]]:
    if sums_partials(case):
        return [tuple(summed_over_ranks([run.values for run in runs], runs[0].by_token))]
    return [run.values for run in runs]


def _matches(
    case: Case,
    actual: Sequence[Sequence[Tensor]],
    would_be: list[tuple[Tensor, ...]],
    expected: list[Expected],
    slack: int = 2,
) -> bool:
    if len(actual) != len(would_be):
        return False
    for outputs, values, right in zip(actual, would_be, expected, strict=True):
        if len(outputs) != len(values):
            return False
        for index, (output, value) in enumerate(zip(outputs, values, strict=True)):
            if output.numel() != value.numel() or not _close(case, output, value, right, index, slack).all():
                return False
    return True


def _row_matches(
    case: Case, actual: Outputs, would_be: list[tuple[Tensor, ...]], expected: list[Expected], token: int
) -> bool:
    return all(
        bool(_close(case, output, value, right, index)[token].all())
        for outputs, values, right in zip(actual, would_be, expected, strict=True)
        for index, (output, value) in enumerate(zip(outputs, values, strict=True))
        if right.by_token[index]
    )


def _close(case: Case, output: Tensor, value: Tensor, right: Expected, index: int, slack: int = 2) -> Tensor:
    error = (output.double().reshape(value.shape) - value).abs()
    return error <= slack * tolerance(case, right, index)


def _added(expected: list[Expected], deltas: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]] | None:
    for right, moved in zip(expected, deltas, strict=True):
        if any(base.shape != delta.shape for base, delta in zip(right.base, moved, strict=True)):
            return None
    return [
        tuple(base + delta for base, delta in zip(right.base, moved, strict=True))
        for right, moved in zip(expected, deltas, strict=True)
    ]
