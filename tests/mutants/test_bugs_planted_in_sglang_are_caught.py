"""Bugs planted in SGLang's own LoRA layers are caught where SGLang without them is right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.power.hunting import clause_tests
from conformance.engines.threads import ThreadsEngine
from conformance.subjects.subject import Subject
from tests.mutants.planting import Mutant
from tests.mutants.sglang_planted import SGLANG_MUTANTS
from tests.mutants.test_bugs_planted_in_vllm_are_caught import notices


@pytest.fixture(scope="module")
def sglang() -> Iterator[Subject]:
    pytest.importorskip("sglang")
    from conformance.implementations.sglang import SglangImplementation

    implementation = SglangImplementation()
    implementation.layers.prepare()
    torch.set_grad_enabled(False)
    yield Subject(implementation, ThreadsEngine())
    torch.set_grad_enabled(True)


@pytest.mark.sglang
@pytest.mark.parametrize("mutant", SGLANG_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_clause_notices(mutant: Mutant, sglang: Subject) -> None:
    assert any(notices(clause_tests()[clause], mutant, sglang) for clause in mutant.clauses), mutant.story
