"""KERNEL-1: shrink, expand and their composition equal dense mathematics, for both twins."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from kernel_cases import (
    CANARY,
    IMPLEMENTATIONS,
    Implementation,
    KernelCase,
    bits,
    dense_expand,
    dense_shrink,
    draw_values,
    each_twin,
    each_twin_draws,
    kernel_cases,
    operands,
    place,
    property_test,
    run_ops,
    token_scaling,
)

integers = st.sampled_from(["signed", "positive"])

# One float32 addition; 2⁻²³ and not 2⁻²⁴ because tensor cores may cut where a CPU rounds.
FLOAT32_STEP = 2.0**-23
FITS_FLOAT32 = 2.0**24


@each_twin_draws
@given(case=kernel_cases(), values=integers)
@property_test
def test_shrink_of_integers_equals_dense_mathematics_bit_for_bit(
    twin: Implementation, case: KernelCase, values: str
) -> None:
    tensors = operands(case, values)
    magnitude = dense_shrink(tensors.x.abs(), tensors.lora_a.abs(), case.token_slots)
    assume(not bool((magnitude >= FITS_FLOAT32).any()))  # every partial sum is exact
    expected = dense_shrink(tensors.x, tensors.lora_a, case.token_slots)
    hidden = twin.ops.shrink(tensors.x, tensors.lora_a, tensors.batch)
    assert hidden.dtype == torch.float32
    assert torch.equal(hidden.double(), expected)


@each_twin_draws
@given(case=kernel_cases(), values=integers, fused=st.booleans())
@property_test
def test_shrink_then_expand_of_integers_equals_dense_mathematics_bit_for_bit(
    twin: Implementation, case: KernelCase, values: str, fused: bool
) -> None:
    tensors = operands(case, values)
    columns = slice(case.offset, case.offset + case.columns)
    before = tensors.output[:, columns].double()
    factors = token_scaling(tensors, case)
    magnitude = dense_shrink(tensors.x.abs(), tensors.lora_a.abs(), case.token_slots)
    magnitude = before.abs() + factors * dense_expand(magnitude, tensors.lora_b.abs(), case)
    assume(not bool((4 * magnitude >= FITS_FLOAT32).any()))  # scaled by 1/2 or cut into three, sums are exact

    hidden = dense_shrink(tensors.x, tensors.lora_a, case.token_slots)
    expected = twin.narrow(before + factors * dense_expand(hidden, tensors.lora_b, case), case.dtype)
    run_ops(twin.ops, tensors, case, fused=fused)
    served = [token for token, slot in enumerate(case.token_slots) if slot >= 0]
    assert torch.equal(tensors.output[served][:, columns], expected[served])


@each_twin_draws
@given(case=kernel_cases())
@property_test
def test_expand_loses_no_bit_of_a_float32_hidden_value(twin: Implementation, case: KernelCase) -> None:
    tensors = operands(case, "signed")
    tokens, slices = len(case.token_slots), len(case.slice_sizes)
    generator = torch.Generator().manual_seed(case.seed)
    limit = int(FITS_FLOAT32) // (8 * 3 * case.rank)  # |scaling · Σ h · b + y| < 2²⁴ with |b| ≤ 3
    hidden = torch.randint(-limit, limit, (tokens, slices, case.rank), generator=generator)
    hidden = hidden.to(tensors.output.device, torch.float32)
    ones = torch.ones(tokens, case.columns, device=hidden.device)  # float32 shows what 16 bits would hide
    output, _ = place(ones, case.layouts[3], CANARY)
    expected = output.double() + token_scaling(tensors, case) * dense_expand(hidden, tensors.lora_b, case)
    twin.ops.expand(hidden, tensors.lora_b, tensors.scaling, tensors.batch, output, slice_sizes=case.slice_sizes)
    assert torch.equal(output.double(), expected)


@each_twin_draws
@given(case=kernel_cases())
@property_test
def test_shrink_of_reals_stays_inside_the_bound_of_its_sums(twin: Implementation, case: KernelCase) -> None:
    tensors = operands(case, "real")
    expected = dense_shrink(tensors.x, tensors.lora_a, case.token_slots)
    products = dense_shrink(tensors.x.abs(), tensors.lora_a.abs(), case.token_slots)
    hidden = twin.ops.shrink(tensors.x, tensors.lora_a, tensors.batch).double()
    assert bool(((hidden - expected).abs() <= (case.k + 8) * FLOAT32_STEP * products).all())


@each_twin_draws
@given(case=kernel_cases(), fused=st.booleans())
@property_test
def test_shrink_then_expand_of_reals_stays_inside_the_bound_of_its_sums(
    twin: Implementation, case: KernelCase, fused: bool
) -> None:
    tensors = operands(case, "real")
    columns = slice(case.offset, case.offset + case.columns)
    before, factors = tensors.output[:, columns].double(), token_scaling(tensors, case)
    hidden = dense_shrink(tensors.x, tensors.lora_a, case.token_slots)
    expected = before + factors * dense_expand(hidden, tensors.lora_b, case)
    products = dense_shrink(tensors.x.abs(), tensors.lora_a.abs(), case.token_slots)
    products = factors * dense_expand(products, tensors.lora_b.abs(), case)

    # k additions, one of every share of k, the scaling; then up to 6 · rank (hidden is cut in three, float16
    # weights in two) that begin with what was there; one rounding.
    steps = 6 * case.rank + 2
    sums = FLOAT32_STEP * ((case.k + 9 + steps) * products + steps * before.abs())
    rounding = twin.unit(case.dtype) * (expected.abs() + sums) + torch.finfo(case.dtype).smallest_normal * 2.0**-10
    run_ops(twin.ops, tensors, case, fused=fused)
    served = [token for token, slot in enumerate(case.token_slots) if slot >= 0]
    error = (tensors.output[:, columns].double() - expected).abs()
    assert bool((error <= sums + rounding)[served].all())


@each_twin
@pytest.mark.parametrize("rank", [1, 2, 7, 16, 24, 48, 64, 96, 128, 256, 511, 512])
def test_any_rank_up_to_512_is_served(twin: Implementation, rank: int) -> None:
    layouts = ("contiguous",) * 4
    case = KernelCase((1, -1, 0, 1), 2, 40, rank, (24, 8), 0, 0, torch.float16, layouts, seed=rank)
    tensors = operands(case, "signed")
    hidden = dense_shrink(tensors.x, tensors.lora_a, case.token_slots)
    before = tensors.output.double()
    delta = token_scaling(tensors, case) * dense_expand(hidden, tensors.lora_b, case)
    run_ops(twin.ops, tensors, case, fused=True)
    assert torch.equal(tensors.output, twin.narrow(before + delta, case.dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs 5 GB of zero pages that a copy would touch")
def test_rows_further_apart_than_31_bits_are_read_and_written_where_they_are() -> None:
    layouts = ("contiguous",) * 4
    case = KernelCase((0, 0, 1), 2, 16, 4, (16,), 0, 0, torch.float16, layouts, seed=5)
    tensors = operands(case, "signed")
    stride = 2**30 + 16
    far = torch.zeros(2 * stride + 64, dtype=torch.float16, device="cuda")
    x, output = far.as_strided((3, 16), (stride, 1)), far.as_strided((3, 16), (stride, 1), 32)
    x.copy_(draw_values(case, "signed", (3, 16), 0))
    expected = token_scaling(tensors, case) * dense_expand(
        dense_shrink(x, tensors.lora_a, case.token_slots), tensors.lora_b, case
    )
    twin = IMPLEMENTATIONS[1]
    twin.ops.add_lora(x, tensors.lora_a, tensors.lora_b, tensors.scaling, tensors.batch, output, slice_sizes=(16,))
    assert torch.equal(bits(output), bits(twin.narrow(expected, torch.float16)))
