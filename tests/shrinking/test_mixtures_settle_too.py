"""A planted bug's first failing mixture, however large, settles to the least one, whose file is short."""

from __future__ import annotations

import pytest

from benchmarks.power.hunting import ClauseTest, noticing, reference_subject
from conformance.judging.verdicts import Failure, Violation
from conformance.regressions.entries import Entry, StoredFailure
from conformance.search.settling import plainest
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.writer import write
from strategies.experts import ExpertsCase
from tests.experts import planted
from tests.mutants.planting import planted_in
from tests.shrinking.test_the_least_case_is_found import first_failure

BY_NAME = {mutant.name: mutant for mutant in planted_in(planted)}
# Ranks, experts, adapters, tokens, intermediate size. (Where two adapters must meet in one slot, whether they do may
# hang on both at once, and some first cases stop short of the least: that bug is not here.)
LEAST = {
    "only-the-first-expert-of-a-token": (1, 2, 1, 1, 1),
    "pairs-counted-the-other-way": (1, 2, 1, 2, 1),
    "no-adapter-is-the-first": (1, 1, 1, 2, 1),
    "gate-and-up-change-places": (1, 1, 1, 1, 1),
    "fused-halves-are-interleaved": (1, 1, 1, 1, 2),
    "down-is-not-scaled": (1, 1, 1, 1, 1),
    "every-rank-has-the-first-columns-of-down": (2, 1, 1, 1, 2),
    "every-rank-has-the-first-rows-of-gate": (2, 1, 1, 1, 2),
    "hidden-of-down-is-not-summed": (2, 1, 1, 1, 2),
    "experts-are-not-counted": (2, 1, 1, 1, 2),
    "whole-experts-are-counted": (2, 2, 1, 1, 1),
    "a-dummy-of-ones": (1, 1, 1, 1, 1),
}


def settled(test: ClauseTest, found: Violation) -> Violation:
    return plainest(reference_subject(), test.clause, test.body, found)[0]


@pytest.mark.parametrize("name", LEAST)
def test_the_settled_mixture_is_the_least(name: str) -> None:
    mutant = BY_NAME[name]
    test = next(iter(noticing(mutant)))
    with mutant.patch():
        found = first_failure(test, reference_subject())
        smallest = settled(test, found)
    case = smallest.case
    assert isinstance(case, ExpertsCase)
    left = (case.tp_size, case.experts, len(case.adapters), len(case.tokens), case.intermediate_size)
    assert left == LEAST[name], f"{found.case!r} settled to {case!r}"
    assert case.max_loras == len(case.adapters)
    failure = Failure.of(test.clause, smallest)
    stored = StoredFailure(failure.clause, failure.anomaly, failure.message, "reference", seen=failure.seen)
    text = write(Entry(failure.case, failure.shown, (stored,)), stored, LoraCompat(), "shown.")
    assert text.count("\n") <= 85, text
