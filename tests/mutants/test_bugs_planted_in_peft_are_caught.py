"""Bugs planted in PEFT's LoRA layers are caught by the clause that is said to notice them, where PEFT is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from benchmarks.power.engines import first_shown
from benchmarks.power.hunting import properties_of
from tests.mutants.peft_planted import PEFT_MUTANTS
from tests.mutants.planting import Mutant

CASES = 100


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("mutant", PEFT_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_clause_notices_and_names_it(mutant: Mutant) -> None:
    tests = [test for clause in mutant.clauses for test in properties_of(clause)]
    seen = [found[1] for test in tests if (found := first_shown(test, mutant, seed=0, cases=CASES)) is not None]
    assert {*seen} & {*mutant.anomalies}, f"{mutant.story} {seen}"


def test_each_clause_of_its_own_has_two_bugs() -> None:
    assert Counter(clause for mutant in PEFT_MUTANTS for clause in mutant.clauses)["MATH-18"] >= 2
