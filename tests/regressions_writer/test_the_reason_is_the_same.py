"""A failed run counts as proof only where it shows the number, or the exception, that the failure tells of."""

from __future__ import annotations

import pytest

from conformance.regressions.entries import StoredFailure
from conformance.regressions.proof import FileRun, same_reason


def shows(message: str, line: str, anomaly: str = "adapter-leak") -> bool:
    return same_reason(FileRun(1, f"E   {line}\n"), StoredFailure("MATH-3", anomaly, message, "vllm"))


@pytest.mark.parametrize(
    "message",
    [
        "rank 0: out0[1, 0]=-4, but should be -2 (allowed error 0)",
        "tokens [1, 3]: out0[0, 0]=-4, but should be -2, to the bit",
        "TP 2, fully_sharded=False: out0[1, 0]=-4, but should be -2",
        "call 3, run(0): rank 0: layers.0.mlp.gate: out0[1, 0]=-4, but should be -2; adapters [1] (0: none)",
    ],
)
def test_the_number_must_be_where_the_message_says(message: str) -> None:
    assert shows(message, "assert [[1.0], [-4.0]] == [[1.0], [-2.0]]")
    assert not shows(message, "assert [[-4.0], [-3.0]] == [[1.0], [-2.0]]")


def test_an_exception_is_another_reason_than_a_number() -> None:
    assert not shows("rank 0: out0[0, 0]=-4, but should be -2", "RuntimeError: einsum(): subscript i has size 8")
    assert shows("rank 0 of 2: RuntimeError: size 8 of operand", "RuntimeError: size 16 of operand", "raised")
