"""The default profile draws every dimension that real bugs vary, every pair of them, and little in vain."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.power.hunting import CASES, clause_tests, reference_subject
from benchmarks.power.pairs import dimensions, pairs_of
from conformance.judging.verdicts import Verdict
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from strategies.cases import DTYPES, Case, Layout, Regime
from strategies.drawing import cases
from strategies.forwards import Forward
from strategies.layers import FAMILIES
from strategies.subclasses import Constructor, Loader, Mixins

# Clauses whose strategies between them have every option.
DRAWN = ("MATH-1", "MATH-2", "MATH-7", "MATH-8", "MATH-11", "UNWRAP-1", "UNWRAP-3", "WRAP-4")
# Values that exclude each other on these dimensions by what they mean, with what a clause must not mix.
EXCLUDING = {
    frozenset(pair)
    for pair in (
        *combinations(("family", "outputs", "packed list", "parts", "KV heads", "loader"), 2),
        *(("depth", other) for other in ("mixins", "made", "constructor", "loader", "forward")),
        *(("layout", other) for other in ("nesting", "base", "outputs", "KV heads", "loader", "forward")),
        *(("ranks", other) for other in ("disable_tp", "KV heads", "sharding", "adapter's rank")),
        *(("batch", other) for other in ("nesting", "base", "slots", "outputs", "KV heads", "loader", "layout")),
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> list[Case]:
    found: list[Case] = []
    for clause in DRAWN:
        test = clause_tests()[clause]
        run = ClauseRun(reference_subject(), Budget(CASES, seed=0))
        run.check(clause, test.name, test.strategy, lambda subject, case: found.append(case))
    return found


def test_every_value_of_every_dimension_is_drawn(drawn: list[Case]) -> None:
    values: dict[str, set[str]] = {}
    for case in drawn:
        for name, value in dimensions(case).items():
            values.setdefault(name, set()).add(value)
    assert values["family"] >= {family.value for family in FAMILIES}
    assert values["outputs"] == {"one", "two, equal", "two, unequal", "more, equal", "more, unequal"}
    assert values["packed list"] == {"none", "per output", "shorter"}
    assert values["parts"] == {"all", "absent", "fused"}
    assert values["ranks"] == {"1", "2", "4", "8 to 32"}
    assert values["KV heads"] == {"no heads", "as many or more", "one", "fewer than ranks"}
    assert values["forward"] == {forward.value for forward in Forward if forward is not Forward.OWN}
    assert values["adapter's rank"] >= {"1", "below", "cut unevenly", "the largest"}
    assert values["batch"] >= {"empty", "base only", "one", "several", "one and base", "several and base"}
    for name, choices in (
        ("mixins", Mixins), ("constructor", Constructor), ("loader", Loader), ("layout", Layout), ("dtype", DTYPES),
        ("regime", Regime),
    ):  # fmt: skip
        assert values[name] == {choice.value for choice in choices}


def test_every_pair_of_values_of_two_dimensions_is_drawn(drawn: list[Case]) -> None:
    values: dict[str, set[str]] = {}
    met = set()
    for case in drawn:
        for name, value in dimensions(case).items():
            values.setdefault(name, set()).add(value)
        met.update(pairs_of(case))
    missed = Counter(
        f"{one} × {other}"
        for one, other in combinations(values, 2)
        if frozenset((one, other)) not in EXCLUDING
        for value in values[one]
        for second in values[other]
        if (one, value, other, second) not in met
    )
    spanned = sum(len(values[one]) * len(values[other]) for one, other in combinations(values, 2))
    assert sum(missed.values()) <= 0.02 * spanned, missed.most_common()


@pytest.mark.parametrize("clause", ["MATH-1", "MATH-2", "MATH-4", "MATH-8", "MATH-10", "MATH-12", "COMM-1", "RANK-4"])
def test_at_most_a_tenth_is_drawn_in_vain(clause: str) -> None:
    test = clause_tests()[clause]
    result = ClauseRun(reference_subject(), Budget(30, seed=1)).check(clause, test.name, test.strategy, test.body)
    assert result.counts[Verdict.NOT_EXERCISED.value] <= 0.1 * result.cases, result.reasons


def test_no_case_is_a_near_copy_of_the_one_before_it() -> None:
    """Hypothesis follows a case with copies of it in which one draw repeats another, unless no two look alike."""
    found: list[Case] = []

    @hypothesis.seed(0)
    @settings(
        max_examples=100, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
        deadline=None,
    )  # fmt: skip
    @given(cases())
    def run(case: Case) -> None:
        found.append(case)

    run()
    near = sum(_differences(one, other) <= 3 for one, other in pairwise(found))
    assert near <= 5
    assert len({case.layer for case in found}) >= 85


def _differences(one: Case, other: Case) -> int:
    there, here = dimensions(one), dimensions(other)
    return sum(there[name] != here[name] for name in there) + (one.layer.input_size != other.layer.input_size)
