"""A deadlock ends as a verdict. So do dead workers (tests/screens) and wrong numbers (tests/regressions_writer)."""

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
