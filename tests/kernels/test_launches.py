"""KERNEL-1 under launches that the rules do not choose: numbers do not hang on how the work is cut."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import IMPLEMENTATIONS, KernelCase, bits, dense_expand, dense_shrink, operands, token_scaling

from lora_compat.kernels.launch import ExpandLaunch, ShrinkLaunch
from lora_compat.kernels.triton_expand import launch_expand
from lora_compat.kernels.triton_shrink import launch_shrink

SLOTS = tuple((5 * token // 3) % 4 - 1 for token in range(70))
CASE = KernelCase(SLOTS, 3, 600, 20, (130, 16, 63), 0, 0, torch.bfloat16, ("contiguous",) * 4, seed=3)


@pytest.mark.parametrize(
    ("shrink", "expand"),
    [
        (ShrinkLaunch(32, 16, 64, 3, 4, 4), ExpandLaunch(64, 64, 32, 64, 4)),
        (ShrinkLaunch(64, 64, 64, 6, 4, 4), ExpandLaunch(32, 128, 32, 128, 4)),
        (ShrinkLaunch(64, 128, 64, 5, 8, 4), ExpandLaunch(64, 256, 16, 256, 8)),
        (ShrinkLaunch(32, 64, 128, 7, 4, 6), ExpandLaunch(128, 128, 32, 256, 8)),
        (ShrinkLaunch(16, 32, 256, 8, 4, 4), ExpandLaunch(16, 64, 16, 64, 4)),
    ],
)
def test_any_launch_gives_dense_mathematics(shrink: ShrinkLaunch, expand: ExpandLaunch) -> None:
    given, twin = operands(CASE, "signed"), IMPLEMENTATIONS[1]
    before = given.output.double()
    hidden = dense_shrink(given.x, given.lora_a, SLOTS)
    expected = twin.narrow(before + token_scaling(given, CASE) * dense_expand(hidden, given.lora_b, CASE), CASE.dtype)
    partial = launch_shrink(given.x, given.lora_a, given.batch, launch=shrink)
    assert len(partial) == shrink.split
    launch_expand(partial, given.lora_b, given.scaling, given.batch, given.output, CASE.slice_sizes, launch=expand)
    served = [token for token, slot in enumerate(SLOTS) if slot >= 0]
    assert torch.equal(bits(given.output[served]), bits(expected[served]))
    others = [token for token, slot in enumerate(SLOTS) if slot < 0]
    assert torch.equal(bits(given.output[others]), bits(before[others].to(CASE.dtype)))
