"""KERNEL-1 and MATH-3: what the kernels write, what they leave alone, and the batches at the edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import (
    DEVICE,
    Implementation,
    KernelCase,
    bits,
    each_twin,
    each_twin_draws,
    kernel_cases,
    operands,
    place,
    property_test,
    run_ops,
)

from lora_compat.kernels import NO_ADAPTER


@each_twin_draws
@given(case=kernel_cases(), fused=st.booleans())
@property_test
def test_nothing_is_written_but_the_slices_of_tokens_with_an_adapter(
    twin: Implementation, case: KernelCase, fused: bool
) -> None:
    tensors = operands(case, "real")
    for token, slot in enumerate(case.token_slots):
        if slot == NO_ADAPTER:
            tensors.output[token] = torch.nan  # even NaN must come back with the same bits
    frame_before, view_before = tensors.frame.clone(), tensors.output.clone()
    run_ops(twin.ops, tensors, case, fused=fused)
    served = [token for token, slot in enumerate(case.token_slots) if slot != NO_ADAPTER]
    columns = slice(case.offset, case.offset + case.columns)
    view_before[served, columns] = tensors.output[served, columns]
    assert torch.equal(bits(tensors.output), bits(view_before))
    _, inside = place(torch.ones_like(tensors.output), case.layouts[3], 0.0)
    assert torch.equal(bits(tensors.frame)[inside == 0], bits(frame_before)[inside == 0])


@each_twin_draws
@given(case=kernel_cases(), fused=st.booleans())
@property_test
def test_nan_around_the_operands_and_in_unused_slots_never_arrives(
    twin: Implementation, case: KernelCase, fused: bool
) -> None:
    tensors = operands(case, "real")
    run_ops(twin.ops, tensors, case, fused=fused)
    assert not bool(tensors.output.isnan().any())


@each_twin_draws
@given(case=kernel_cases(), fused=st.booleans())
@property_test
def test_the_operands_are_left_as_they_were(twin: Implementation, case: KernelCase, fused: bool) -> None:
    tensors = operands(case, "real")
    inputs = (tensors.x, tensors.lora_a, tensors.lora_b, tensors.scaling, tensors.batch.token_slots)
    before = [tensor.clone() for tensor in inputs]
    run_ops(twin.ops, tensors, case, fused=fused)
    assert all(torch.equal(bits(now), bits(then)) for now, then in zip(inputs, before, strict=True))


@each_twin_draws
@given(case=kernel_cases(), fused=st.booleans())
@property_test
def test_the_same_call_gives_the_same_bits_every_time(twin: Implementation, case: KernelCase, fused: bool) -> None:
    results = []
    for _ in range(3):
        tensors = operands(case, "real")
        run_ops(twin.ops, tensors, case, fused=fused)
        results.append(bits(tensors.output))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@each_twin_draws
@given(case=kernel_cases(), fused=st.booleans())
@property_test
def test_permuting_the_tokens_permutes_the_outputs(twin: Implementation, case: KernelCase, fused: bool) -> None:
    tokens = len(case.token_slots)
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(case.seed))
    straight, turned = operands(case, "signed"), operands(case, "signed")
    turned.x.copy_(turned.x[order.to(DEVICE)].clone())
    turned.output.copy_(turned.output[order.to(DEVICE)].clone())
    turned = replace(
        turned, batch=type(turned.batch).of([case.token_slots[index] for index in order.tolist()], DEVICE)
    )
    run_ops(twin.ops, straight, case, fused=fused)
    run_ops(twin.ops, turned, case, fused=fused)
    assert torch.equal(turned.output, straight.output[order.to(DEVICE)])


@each_twin
@pytest.mark.parametrize("token_slots", [(), (NO_ADAPTER,), (NO_ADAPTER,) * 40], ids=["none", "one", "forty"])
def test_a_batch_without_adapters_changes_nothing_and_hides_nothing(
    twin: Implementation, token_slots: tuple[int, ...]
) -> None:
    layouts = ("contiguous",) * 4
    case = KernelCase(token_slots, 2, 32, 4, (8, 24), 0, 0, torch.float16, layouts, seed=1)
    tensors = operands(case, "real")
    before = tensors.output.clone()
    hidden = twin.ops.shrink(tensors.x, tensors.lora_a, tensors.batch)
    assert hidden.shape == (len(token_slots), 2, 4)
    assert not bool(hidden.any())
    run_ops(twin.ops, tensors, case, fused=True)
    run_ops(twin.ops, tensors, case, fused=False)
    assert torch.equal(bits(tensors.output), bits(before))
