"""Bugs planted in vLLM's own LoRA layers are caught where vLLM without them is right."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.power.hunting import ClauseTest, clause_tests
from conformance.engines.threads import ThreadsEngine
from conformance.judging.verdicts import Violation
from conformance.subjects.outcomes import NotExercised, NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from lora_compat.families import Family
from strategies.cases import Case
from strategies.drawing import cases
from tests.mutants.planting import Mutant
from tests.mutants.vllm_planted import VLLM_MUTANTS

# Layers as vLLM's models have them; what it gets wrong by itself is docs/findings, and left out case by case.
USUAL = cases(
    families=(Family.COLUMN, Family.MERGED_COLUMN, Family.QKV, Family.ROW), max_depth=0, tp_sizes=(1, 2, 4),
    adapters=(1, 2), disable_tp=False, max_ranks=(8, 16), biases=(False,), without_adapter=False,
)  # fmt: skip
CASES = 150


class _Caught(BaseException):
    pass


@pytest.fixture(scope="module")
def vllm() -> Iterator[Subject]:
    pytest.importorskip("vllm")
    from conformance.implementations.vllm import VllmImplementation

    implementation = VllmImplementation()
    implementation.layers.prepare()
    torch.set_grad_enabled(False)
    yield Subject(implementation, ThreadsEngine())
    torch.set_grad_enabled(True)


@pytest.mark.vllm
@pytest.mark.parametrize("mutant", VLLM_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_clause_notices(mutant: Mutant, vllm: Subject) -> None:
    assert any(notices(clause_tests()[clause], mutant, vllm) for clause in mutant.clauses), mutant.story


def notices(test: ClauseTest, mutant: Mutant, vllm: Subject) -> bool:
    """Whether some drawn case is served rightly without the mutant and breaks the clause with it."""

    @hypothesis.seed(0)
    @settings(
        max_examples=CASES, database=None, deadline=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(USUAL)
    def run(case: Case) -> None:
        if right(test, case, vllm):
            with mutant.patch():
                if not right(test, case, vllm):
                    raise _Caught

    try:
        run()
    except _Caught:
        return True
    return False


def right(test: ClauseTest, case: Case, vllm: Subject) -> bool:
    """Whether the case does not break the clause."""
    try:
        test.body(vllm, case)
    except Violation:
        return False
    except (NotExercised, NotWrapped, SubjectRefused):
        pass
    return True
