"""Deadlocks, dead workers and wrong numbers end as verdicts, with all other evidence kept."""

from __future__ import annotations

import re

from tests.suite import run_suite, shown

BROKEN = "tests.implementations.broken"


def test_a_rank_that_skips_a_collective_is_a_comm_failure_with_both_call_sites() -> None:
    result = run_suite("--impl", f"{BROKEN}:SkipsACollective", "--profile", "quick", select="test_collectives.py")
    text = shown(result)
    assert result.code == 1
    assert "COMM-1    MUST    fail" in text
    assert "collective-mismatch: rank 0 issued" in text
    assert "delta.py" in text, "the call site of the rank that waits"
    assert re.search(r"rank 0 issued .* at .*; rank \d+ (ended without it|issued .* at )", text)


def test_a_worker_that_dies_is_an_error_of_its_clause_and_the_rest_is_kept() -> None:
    arguments = ("--impl", f"{BROKEN}:KillsItsWorker", "--profile", "quick", "-n", "1")
    result = run_suite(*arguments, select="test_unwrapping.py")
    text = shown(result)
    assert result.code == 1
    assert "UNWRAP-2  MUST    error" in text
    assert "crashed while running" in text
    for clause in ("UNWRAP-1", "UNWRAP-3", "UNWRAP-4"):
        assert f"{clause}  MUST    pass" in text
    assert "not conformant (UNWRAP-2)" in text


def test_a_wrong_number_is_named_and_shrunk() -> None:
    arguments = ("--impl", f"{BROKEN}:DropsTheBias", "--profile", "quick", "-k", "MATH-9")
    result = run_suite(*arguments, select="test_dense_math.py")
    text = shown(result)
    assert result.code == 1
    assert "MATH-9    MUST    fail" in text
    assert "bias-dropped: rank 0: out0[0, 0]=" in text
    assert "Case(layer=LayerSpec(bias=True)" in text
