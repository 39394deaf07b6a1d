"""Row-parallel layers that leave their sum to the model: only the sum over the ranks has a meaning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conformance.judging.anomalies.traits import misshapen
from conformance.oracles.linear import Expected
from lora_compat.families import Family
from strategies.cases import Case


def sums_partials(case: Case) -> bool:
    """Whether each rank returns a partial sum, so that only the sum over the ranks has a meaning."""
    return case.layer.family is Family.ROW and not case.layer.reduce_results and case.layer_tp_size > 1


def summed_over_ranks(parts: Sequence[Sequence[Tensor]], by_token: Sequence[bool]) -> list[Tensor]:
    """Partial outputs added up in float64; an output bias is taken once."""
    return [
        torch.stack([part.double() for part in same]).sum(0) if counts else same[0]
        for same, counts in zip(zip(*parts, strict=True), by_token, strict=True)
    ]


def together(
    case: Case, actual: Sequence[Sequence[Tensor]], expected: list[Expected]
) -> tuple[list[list[Tensor]], list[Expected]]:
    """Partial sums added up over the ranks, as if of one rank; all as it was elsewhere, and where they do not fit."""
    if not sums_partials(case) or any(map(misshapen, actual, expected)):
        return [list(outputs) for outputs in actual], expected
    by_token = expected[0].by_token
    magnitudes = tuple(summed_over_ranks([e.magnitudes for e in expected], by_token)) if expected[0].magnitudes else ()
    values, base = (
        tuple(summed_over_ranks(parts, by_token))
        for parts in ([e.values for e in expected], [e.base for e in expected])
    )
    return [summed_over_ranks(actual, by_token)], [Expected(values, magnitudes, base, by_token)]
