"""``--device cuda`` without a GPU: every tensor is where it belongs, and a GPU that is lost ends one worker only."""

from __future__ import annotations

from tests.suite import run_suite, shown

EMULATED = ("-p", "tests.devices.emulated_gpu", "--device", "cuda")
FAULTY = "tests.devices.faulty"


def test_no_clause_mixes_devices() -> None:
    # The seed draws nothing for many ranks, which takes most of a run.
    result = run_suite(*EMULATED, "--max-examples", "2", "--conformance-seed", "1")
    assert result.code == 0, shown(result)


def test_a_buffer_left_on_the_cpu_is_found() -> None:
    arguments = ("--impl", f"{FAULTY}:KeepsAOnTheCpu", "--max-examples", "4", "-k", "MATH-2")
    result = run_suite(*EMULATED, *arguments, select="test_dense_math.py")
    assert result.code == 1
    assert "Expected all tensors to be on the same device" in shown(result)


def test_a_lost_gpu_ends_its_worker_and_names_the_case_and_the_rest_goes_on() -> None:
    arguments = ("--impl", f"{FAULTY}:LosesItsGpu", "--max-examples", "4", "-n", "1")
    result = run_suite(*EMULATED, *arguments, select="test_unwrapping.py")
    text = shown(result)
    assert result.code == 1
    assert "UNWRAP-2  MUST    error" in text
    assert "the GPU is lost to this process" in text
    assert "Case(" in text
    for clause in ("UNWRAP-1", "UNWRAP-3", "UNWRAP-4"):
        assert f"{clause}  MUST    pass" in text
    assert "not conformant (UNWRAP-2)" in text
