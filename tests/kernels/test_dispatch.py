"""Which twin serves which tensors, what importing costs, and how a batch is cut into tiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.regressions.fresh import Ended, run_module
from lora_compat.kernels import NO_ADAPTER, TokenBatch, dispatch, torch_ops, triton_ops
from tests.suite import SECONDS


@pytest.mark.parametrize("dtype", sorted(dispatch.TRITON_DTYPES, key=str), ids=str)
def test_narrow_floats_go_to_triton_when_the_interpreter_is_asked_for(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.ops_for(torch.zeros(1, dtype=dtype)) is triton_ops


def test_float64_goes_to_plain_torch_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.ops_for(torch.zeros(1, dtype=torch.float64)) is torch_ops


def test_factors_of_two_dtypes_go_to_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x, lora_a = torch.ones(1, 3, dtype=torch.bfloat16), torch.ones(1, 1, 2, 3)
    assert dispatch.ops_for(x, lora_a, factors=(x, lora_a)) is torch_ops
    assert dispatch.shrink(x, lora_a, TokenBatch.of([0])).tolist() == [[[3.0, 3.0]]]


def test_cpu_tensors_go_to_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert dispatch.ops_for(torch.zeros(1)) is torch_ops


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_tensors_go_to_triton() -> None:
    assert dispatch.ops_for(torch.zeros(1, device="cuda")) is triton_ops
    assert dispatch.ops_for(torch.zeros(1, dtype=torch.float64, device="cuda")) is torch_ops


def test_importing_the_kernels_and_serving_the_cpu_imports_no_triton(tmp_path: Path) -> None:
    program = (
        "import sys, torch\n"
        "from lora_compat.kernels import TokenBatch, shrink\n"
        "shrink(torch.ones(2, 4), torch.ones(1, 1, 2, 4), TokenBatch.of([0, -1]))\n"
        "print([name for name in sys.modules if name.startswith('triton')])\n"
    )
    (tmp_path / "program.py").write_text(program)
    found = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}  # where this one found lora_compat
    assert run_module(["program"], tmp_path, found, SECONDS) == Ended(0, "[]\n", "")


@given(slots=st.lists(st.integers(NO_ADAPTER, 5), max_size=60), block=st.sampled_from([16, 32]))
def test_every_token_with_an_adapter_is_in_one_tile_of_its_slot(slots: list[int], block: int) -> None:
    tiles = TokenBatch.of(slots).tiles(block)
    placed = [
        (token, slot)
        for slot, row in zip(tiles.slots.tolist(), tiles.tokens.tolist(), strict=True)
        for token in row
        if token != NO_ADAPTER
    ]
    assert sorted(placed) == [(token, slot) for token, slot in enumerate(slots) if slot != NO_ADAPTER]
