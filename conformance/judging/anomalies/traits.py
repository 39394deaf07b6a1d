"""What wrong elements have in common, where no single known mistake gives all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.oracles.linear import Expected, error_bound
from strategies.cases import Case, Regime

# An error below this part of the magnitude is one of precision: bfloat16 keeps eight bits, FP8 (E4M3) four.
IMPRECISE = 2.0**-4


@dataclass(frozen=True, slots=True, eq=False)
class _Output:
    """One rank's output, counted by token: what was seen, and what the adapters should have added."""

    seen: Tensor
    right: Tensor
    base: Tensor
    wrong: Tensor
    bound: Tensor
    magnitude: Tensor


def tolerance(case: Case, right: Expected, index: int) -> Tensor:
    """How far output ``index`` may be off, per element."""
    if case.regime is Regime.EXACT or not right.magnitudes:
        return torch.zeros_like(right.values[index])
    return error_bound(case, right.magnitudes[index].abs())


def misshapen(outputs: Sequence[Tensor], right: Expected) -> bool:
    """Whether a rank returned another number of tensors, or tensors of other sizes, than it should."""
    return len(outputs) != len(right.values) or any(
        output.numel() != value.numel() for output, value in zip(outputs, right.values, strict=True)
    )


def common_trait(case: Case, actual: list[list[Tensor]], expected: list[Expected]) -> str | None:
    """The name of what all wrong elements have in common, or None.

    ``delta-incomplete``: they got no contribution, while others did. ``scale-wrong``: every token's contribution is
    the right one times a number of its adapter's, or that of each wrong element is subtracted. ``delta-imprecise``:
    they are off by little. ``delta-misplaced``: each got a contribution that belongs to another element of the token.
    ``result-clamped``: several are cut to one limit that no result exceeds.
    """
    if any(map(misshapen, actual, expected)):
        return None
    outputs = list(_outputs(case, actual, expected))
    if not outputs:
        return None
    if all(bool((one.seen.abs() <= 2 * one.bound)[one.wrong].all()) for one in outputs):
        return "delta-incomplete"
    if all(bool(((one.seen - one.right).abs() <= 2 * one.bound).all()) for one in outputs):
        return "delta-imprecise"  # so near to what is right, everything below would hold of that, too
    if _is_clamped(outputs):
        return "result-clamped"
    if _is_scaled(case, outputs):
        return "scale-wrong"
    if all(bool(((one.seen - one.right).abs() <= IMPRECISE * one.magnitude)[one.wrong].all()) for one in outputs):
        return "delta-imprecise"
    if _is_negated(outputs):
        return "scale-wrong"
    return "delta-misplaced" if _is_misplaced(case, outputs) else None


def _outputs(case: Case, actual: list[list[Tensor]], expected: list[Expected]) -> Iterator[_Output]:
    for outputs, right in zip(actual, expected, strict=True):
        for index, (output, value, base) in enumerate(zip(outputs, right.values, right.base, strict=True)):
            if not right.by_token[index] or not value.numel() or value.shape[0] != len(case.tokens):
                continue
            got = output.double().reshape(value.shape)
            bound = tolerance(case, right, index)
            largest = torch.maximum(value.abs(), base.abs()).reshape(len(value), -1).amax(1)
            magnitude = largest.view(-1, *[1] * (value.dim() - 1)).expand_as(value)
            if right.magnitudes:
                magnitude = torch.maximum(magnitude, right.magnitudes[index].abs())
            yield _Output(got - base, value - base, base, ~((got - value).abs() <= bound), bound, magnitude)


def _is_scaled(case: Case, outputs: list[_Output]) -> bool:
    """Whether one number per adapter turns every right contribution into the one that was seen."""
    found = False
    for adapter in set(case.tokens) - {-1}:
        rows = torch.tensor([index for index, own in enumerate(case.tokens) if own == adapter])
        seen = torch.cat([one.seen[rows].flatten() for one in outputs])
        right = torch.cat([one.right[rows].flatten() for one in outputs])
        bound = torch.cat([one.bound[rows].flatten() for one in outputs])
        visible = right.abs() > 4 * bound
        # One element alone is always a multiple.
        if not bool((seen - right).abs().gt(bound).any()) or int(visible.sum()) < 2:
            continue
        factor = (seen[visible] * right[visible]).sum() / (right[visible] ** 2).sum()
        slack = 2 * bound + 1e-9 * right.abs().amax() + _last_place(case, seen)
        if not bool(((seen - factor * right).abs() <= slack).all()):
            return False
        found = True
    return found


def _is_clamped(outputs: list[_Output]) -> bool:
    """Whether the tokens with wrong elements were cut to ± one limit, which several results that differ exceed."""
    rows = [one.wrong.reshape(len(one.wrong), -1).any(1) for one in outputs]

    def of_rows(parts: list[Tensor]) -> Tensor:
        return torch.cat([part[own].flatten() for part, own in zip(parts, rows, strict=True)])

    seen = of_rows([one.base + one.seen for one in outputs])
    right = of_rows([one.base + one.right for one in outputs])
    wrong, bound = of_rows([one.wrong for one in outputs]), of_rows([one.bound for one in outputs])
    limit = seen.abs().amax()
    several = len(right[wrong].unique()) > 1
    return several and bool(((seen - right.clamp(-limit, limit)).abs() <= 2 * bound).all())


def _is_negated(outputs: list[_Output]) -> bool:
    """Whether each of several wrong elements got its right contribution with the other sign."""
    wrong = sum(int(one.wrong.sum()) for one in outputs)
    return wrong > 1 and all(bool(((one.seen + one.right).abs() <= 2 * one.bound)[one.wrong].all()) for one in outputs)


def _last_place(case: Case, values: Tensor) -> Tensor:
    """What rounding the sum to the case's dtype may hide; in the exact regime nothing else rounds."""
    digits = {"float32": 22, "float16": 9, "bfloat16": 6}[case.dtype.of_tensors]
    return values.abs().amax() * 2.0**-digits


def _is_misplaced(case: Case, outputs: list[_Output]) -> bool:
    for token in range(len(case.tokens)):
        right = torch.cat([one.right[token].flatten() for one in outputs])
        for one in outputs:
            seen = one.seen[token][one.wrong[token]].flatten()
            bound = one.bound[token][one.wrong[token]].flatten()
            nearest = (seen.view(-1, 1) - right).abs().amin(1) if seen.numel() else seen
            if not bool((nearest <= 2 * bound).logical_or(seen.abs() <= 2 * bound).all()):
                return False
    return True
