"""Every tensor of a case is a pure function of its seed; in the exact regime nothing ever rounds."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from conformance.implementations.dtypes import torch_dtype
from conformance.subjects.building import flatten
from conformance.values.linear import CaseTensors, values_of
from strategies.cases import Case, Layout, Regime
from strategies.drawing import cases

fifty = settings(max_examples=50, database=None, deadline=None, suppress_health_check=list(HealthCheck))


def tensors_of(values: CaseTensors) -> list[Tensor]:
    parts = [part for adapter in values.adapters for part in adapter.parts if part is not None]
    adapters = [tensor for part in parts for tensor in (part.lora_a, part.lora_b)]
    return [*values.weights, *values.biases, *values.inputs, *adapters]


@hypothesis.seed(0)
@fifty
@given(cases())
def test_the_same_seed_gives_the_same_tensors_whatever_else_is_random(case: Case) -> None:
    torch.manual_seed(1)
    first = tensors_of(values_of(case))
    torch.manual_seed(2)
    second = tensors_of(values_of(case))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@hypothesis.seed(0)
@fifty
@given(cases(layouts=tuple(Layout)))
def test_layout_and_sharding_do_not_change_what_is_drawn(case: Case) -> None:
    plain = replace(case, layout=Layout.TWO_D, fully_sharded=False)
    pairs = zip(tensors_of(values_of(case)), tensors_of(values_of(plain)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@hypothesis.seed(0)
@fifty
@given(cases(regimes=(Regime.EXACT,), tp_sizes=(1,)))
def test_in_the_exact_regime_every_order_of_every_sum_is_exact(case: Case) -> None:
    """Summed in the case's dtype, column by column from either end, nothing is lost."""
    values, dtype = values_of(case), torch_dtype(case.dtype)
    x = values.inputs[0]
    for adapter in values.adapters:
        for part in adapter.parts:
            if part is not None:
                right = adapter.scaling * (x @ part.lora_a.t() @ part.lora_b.t())
                for order in (1, -1):
                    hidden = _summed(x, part.lora_a, dtype, order)
                    delta = _summed(hidden.double(), part.lora_b, dtype, order) * adapter.scaling
                    assert torch.equal(delta.double(), right)


def _summed(x: Tensor, weight: Tensor, dtype: torch.dtype, order: int) -> Tensor:
    total = torch.zeros(x.shape[0], weight.shape[0], dtype=dtype)
    for column in range(x.shape[1])[::order]:
        total = total + x[:, column : column + 1].to(dtype) * weight[:, column].to(dtype)
    return total


@hypothesis.seed(0)
@fifty
@given(cases(regimes=(Regime.ROUNDED,)))
def test_in_the_rounded_regime_values_fit_the_dtype_and_are_signed(case: Case) -> None:
    dtype = torch_dtype(case.dtype)
    tensors = tensors_of(values_of(case))
    assert all(torch.equal(tensor, tensor.to(dtype).double()) for tensor in tensors)
    every = torch.cat([tensor.flatten() for tensor in tensors])
    assert every.numel() < 20 or (bool((every > 0).any()) and bool((every < 0).any()))


def test_flatten_keeps_the_order_and_leaves_none_out() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    assert [id(tensor) for tensor in flatten(((one, None), two))] == [id(one), id(two)]
