"""What travels to the ranks lies on the CPU: a rank puts it on the GPU it has, which may be another than the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from conformance import test_experts
from conformance.engines.ranks import RankGroup
from conformance.implementations.reference import ReferenceImplementation
from conformance.subjects.subject import Subject
from conformance.values.experts import ExpertsTensors
from strategies.experts import ExpertsCase


class Sent(Exception):
    """Carries what would have been sent to the ranks."""


class Sender:
    """An engine that runs nothing."""

    name = "sender"

    def unsupported(self, size: int) -> str | None:
        return None

    def run(self, size: int, program: Callable[[RankGroup], Any]) -> list[Any]:
        raise Sent([cell.cell_contents for cell in program.__closure__ or ()])

    def close(self) -> None:
        pass


@pytest.mark.parametrize("clause", ["MATH-16", "RANK-6"])
def test_the_tensors_of_experts_travel_on_the_cpu(clause: str) -> None:
    (test,) = (test for test in vars(test_experts).values() if getattr(test, "clause", None) == clause)
    with pytest.raises(Sent) as sent:
        test.body(Subject(ReferenceImplementation(), Sender(), "meta"), ExpertsCase())
    (tensors,) = (one for one in sent.value.args[0] if isinstance(one, ExpertsTensors))
    assert tensors.routed.hidden.device.type == tensors.weights[0].gate.device.type == "cpu"
