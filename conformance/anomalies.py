"""What happened, by name: computes what each known mistake would have given, and names the one that matches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from conformance.oracle import Expected, error_bound, expected_on
from conformance.subject import HarnessError, Subject
from conformance.values import CaseTensors, values_of
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.cases import Case, Forward, Regime, SubclassSpec

Outputs = list[list[Tensor]]
UNEXPLAINED = "unexplained"


def explain(case: Case, actual: Outputs, expected: list[Expected], subject: Subject) -> str:
    """The name of the first known mistake that gives exactly what was seen; ``unexplained`` if none does."""
    if any(_misshapen(outputs, right) for outputs, right in zip(actual, expected, strict=True)):
        return "gather-inflated" if case.tp_size > 1 else "base-forward-bypassed"
    for name, would_be in _mistakes(case, actual, expected, subject):
        if would_be is not None and _matches(case, actual, would_be, expected):
            return name
    return _by_row(case, actual, expected, subject)


def _misshapen(outputs: list[Tensor], right: Expected) -> bool:
    return len(outputs) != len(right.values) or any(
        output.numel() != value.numel() for output, value in zip(outputs, right.values, strict=True)
    )


def _mistakes(
    case: Case, actual: Outputs, expected: list[Expected], subject: Subject
) -> Iterator[tuple[str, list[tuple[Tensor, ...]] | None]]:
    """Each known mistake with what every rank would have returned."""
    tensors = values_of(case)

    def oracle(changed: CaseTensors, other: Case = case) -> list[tuple[Tensor, ...]] | None:
        try:
            runs = subject.engine.run(
                case.tp_size, lambda group: expected_on(other, changed, subject.implementation.layers, group)
            )
        except Exception:
            return None
        return _combined(case, runs)

    yield "delta-dropped", [right.base for right in expected]
    yield "delta-doubled", oracle(_scaled(tensors, lambda s: 2 * s))
    yield "scale-twice", oracle(_scaled(tensors, lambda s: s * s))
    yield "scale-dropped", oracle(_scaled(tensors, lambda s: 1.0))
    if tensors.biases:
        none = tuple(torch.zeros_like(bias) for bias in tensors.biases)
        yield "bias-dropped", oracle(replace(tensors, biases=none))
        per_rank = tuple(bias * case.layer_tp_size for bias in tensors.biases)
        yield "bias-per-rank", oracle(replace(tensors, biases=per_rank))
    if case.subclass.forward is not Forward.INHERITED:
        plain: SubclassSpec = replace(case.subclass, forward=Forward.INHERITED)
        yield "base-forward-bypassed", oracle(tensors, replace(case, subclass=plain))
    for name, order in (("slices-swapped", _rotated), ("slices-swapped", _reversed)):
        swapped = order(tensors)
        if swapped is not None:
            yield name, oracle(swapped)
    if len(actual) > 1:
        deltas = [
            tuple(value - base for value, base in zip(right.values, right.base, strict=True)) for right in expected
        ]
        for shift in range(1, len(actual)):
            moved = [deltas[(rank + shift) % len(deltas)] for rank in range(len(deltas))]
            yield "shard-misplaced", _added(expected, moved)
        yield "shard-misplaced", _added(expected, [deltas[0]] * len(deltas))


def _by_row(case: Case, actual: Outputs, expected: list[Expected], subject: Subject) -> str:
    """Mistakes that concern some tokens only: another adapter than the token's own."""
    try:
        alternatives = [_single(case, subject, adapter) for adapter in (-1, *range(len(case.adapters)))]
    except HarnessError:
        return UNEXPLAINED
    names = set()
    for token, own in enumerate(case.tokens):
        if _row_matches(case, actual, [right.values for right in expected], expected, token):
            continue
        served = [
            adapter - 1
            for adapter, outputs in enumerate(alternatives)
            if outputs is not None and _row_matches(case, actual, outputs, expected, token)
        ]
        if not served:
            return UNEXPLAINED
        names.add("adapter-leak" if own < 0 else "delta-dropped" if -1 in served else "wrong-slot")
    return names.pop() if len(names) == 1 else "wrong-slot" if names else UNEXPLAINED


def _single(case: Case, subject: Subject, adapter: int) -> list[tuple[Tensor, ...]] | None:
    runs = subject.expected(replace(case, tokens=(adapter,) * len(case.tokens)))
    return _combined(case, runs)


def _combined(case: Case, runs: list[Expected]) -> list[tuple[Tensor, ...]]:
    from conformance.assertions import summed_over_ranks, sums_partials

    if sums_partials(case):
        return [tuple(summed_over_ranks([run.values for run in runs], runs[0].by_token))]
    return [run.values for run in runs]


def _matches(case: Case, actual: Outputs, would_be: list[tuple[Tensor, ...]], expected: list[Expected]) -> bool:
    if len(actual) != len(would_be):
        return False
    for outputs, values, right in zip(actual, would_be, expected, strict=True):
        if len(outputs) != len(values):
            return False
        for index, (output, value) in enumerate(zip(outputs, values, strict=True)):
            if output.numel() != value.numel() or not _close(case, output, value, right, index).all():
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


def _close(case: Case, output: Tensor, value: Tensor, right: Expected, index: int) -> Tensor:
    error = (output.double().reshape(value.shape) - value).abs()
    if case.regime is Regime.EXACT or not right.magnitudes:
        return error == 0
    return error <= 2 * error_bound(case, right.magnitudes[index].abs())


def _added(expected: list[Expected], deltas: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]] | None:
    for right, moved in zip(expected, deltas, strict=True):
        if any(base.shape != delta.shape for base, delta in zip(right.base, moved, strict=True)):
            return None
    return [
        tuple(base + delta for base, delta in zip(right.base, moved, strict=True))
        for right, moved in zip(expected, deltas, strict=True)
    ]


def _scaled(tensors: CaseTensors, change: Callable[[float], float]) -> CaseTensors:
    adapters = tuple(LayerAdapter(adapter.parts, change(adapter.scaling)) for adapter in tensors.adapters)
    return replace(tensors, adapters=adapters)


def _rotated(tensors: CaseTensors) -> CaseTensors | None:
    return _reordered(tensors, lambda parts: parts[1:] + parts[:1])


def _reversed(tensors: CaseTensors) -> CaseTensors | None:
    return _reordered(tensors, lambda parts: parts[::-1])


def _reordered(
    tensors: CaseTensors, order: Callable[[tuple[SubAdapter | None, ...]], tuple[SubAdapter | None, ...]]
) -> CaseTensors | None:
    """The same sub-adapters in another order, where their shapes allow it."""
    changed = []
    for adapter in tensors.adapters:
        moved = order(adapter.parts)
        shapes = [None if part is None else part.lora_b.shape for part in adapter.parts]
        if len(moved) < 2 or shapes != [None if part is None else part.lora_b.shape for part in moved]:
            return None
        changed.append(LayerAdapter(moved, adapter.scaling))
    return replace(tensors, adapters=tuple(changed))
