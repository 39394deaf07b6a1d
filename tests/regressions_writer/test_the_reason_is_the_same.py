"""A failed run counts as proof only where it shows the number, or the exception, that the failure tells of."""

from __future__ import annotations

import pytest

from conformance.judging.facts import Aspect, Difference, Place, Raised, Sighting
from conformance.regressions.entries import StoredFailure
from conformance.regressions.proof import FileRun, same_reason


def shows(seen: Sighting, line: str, anomaly: str = "adapter-leak") -> bool:
    failure = StoredFailure("MATH-3", anomaly, str(seen), "vllm", seen=seen.to_dict())
    return same_reason(FileRun(1, f"E   {line}\n"), failure)


def wrong(row: int, place: Place) -> Sighting:
    return Sighting(Difference(Aspect.VALUE, -4.0, -2.0, 0, (row, 0)), place)


@pytest.mark.parametrize(
    "seen",
    [
        wrong(1, Place(rank=0)),
        wrong(0, Place(tokens=(1, 3))),
        wrong(1, Place(setting="TP 2, fully_sharded=False")),
        wrong(1, Place(call=(3, "run", 0), rank=0, module="layers.0.mlp.gate")),
    ],
    ids=str,
)
def test_the_number_must_be_where_it_was_seen(seen: Sighting) -> None:
    assert shows(seen, "assert [[1.0], [-4.0]] == [[1.0], [-2.0]]")
    assert not shows(seen, "assert [[-4.0], [-3.0]] == [[1.0], [-2.0]]")


def test_an_exception_is_another_reason_than_a_number() -> None:
    assert not shows(wrong(0, Place(rank=0)), "RuntimeError: einsum(): subscript i has size 8")
    raised = Sighting(Raised("RuntimeError", "size 8 of operand"), Place(rank=0, ranks=2))
    assert shows(raised, "RuntimeError: size 16 of operand", "raised")
