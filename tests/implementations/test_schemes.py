"""An implementation's own quantization schemes: what is wrong is caught, and what cannot run says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conformance.engines.threads import ThreadsEngine
from conformance.implementations.protocol import Deployment, Unavailable
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.verdicts import ClauseResult, Verdict
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from conformance.suite.tables import detailed
from conformance.test_schemes import test_adapters_are_added_to_what_a_scheme_of_its_own_gives as clause
from lora_compat.adapters import LayerAdapter
from strategies.schemes import Scheme, SchemeCase

Fault = Callable[[Tensor, Tensor, SchemeCase], Tensor]


class HasSchemes(ReferenceImplementation):
    """Serves one scheme, with a fault if there is one."""

    def __init__(self, fault: Fault | None = None) -> None:
        super().__init__()
        self._fault = fault

    def scheme_outputs(
        self, case: SchemeCase, deployment: Deployment, adapter: LayerAdapter, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        if case.scheme is not Scheme.QUARK_FP8:
            raise Unavailable("no operator `gemm`")
        weight = torch.randint(-1, 2, (case.rows, case.columns), generator=torch.Generator().manual_seed(case.seed))
        bare = x @ weight.to(x).t()
        (part,) = adapter.parts
        assert part is not None
        delta = adapter.scaling * (x @ part.lora_a.t() @ part.lora_b.t())
        delta[[slot < 0 for slot in case.tokens]] = 0
        return bare, bare + delta if self._fault is None else self._fault(bare, delta, case)


def run(fault: Fault | None = None) -> ClauseResult:
    """The clause on an implementation with the fault."""
    subject = Subject(HasSchemes(fault), ThreadsEngine())
    return ClauseRun(subject, Budget(120, 0)).check("MATH-17", "schemes", clause.strategy, clause.body)


def test_what_runs_is_judged_and_what_does_not_says_why_in_the_table() -> None:
    result = run()
    assert result.verdict is Verdict.PASS
    assert result.counts[Verdict.PASS.value] >= 3
    lines = detailed({"MATH-17": result})
    assert sum("on this device it cannot run" in line for line in lines) == len(Scheme) - 1
    assert any("GPTQ, 4 bit: no operator `gemm`" in line for line in lines)


@pytest.mark.parametrize(
    ("fault", "anomaly"),
    [
        (lambda bare, delta, case: bare, "delta-dropped"),
        (lambda bare, delta, case: bare + 2 * delta, "unexplained"),
        (lambda bare, delta, case: bare + delta / 2, "unexplained"),
        (lambda bare, delta, case: bare + delta + 1, "adapter-leak"),
        (lambda bare, delta, case: torch.where(delta == 0, bare, torch.nan), "unexplained"),
    ],
    ids=["dropped", "scaled twice", "not scaled", "leaked", "no numbers"],
)
def test_a_planted_bug_is_caught(fault: Fault, anomaly: str) -> None:
    assert anomaly in [failure.anomaly for failure in run(fault).failures]
