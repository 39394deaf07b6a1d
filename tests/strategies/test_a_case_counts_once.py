"""What is drawn twice is judged once."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st

from conformance.judging.verdicts import Violation
from conformance.search.searching import Search
from strategies.cases import AdapterSpec, Case
from strategies.codec import Spec

FEW = st.sampled_from([Case(max_rank=3, adapters=(AdapterSpec(rank=rank, alpha=float(rank)),)) for rank in (1, 2, 3)])


def test_a_case_that_passes_is_judged_once_however_often_it_is_drawn() -> None:
    judged: Counter[Spec] = Counter()

    def judge(case: Spec) -> None:
        judged[case] += 1

    assert list(Search(FEW, judge, lambda found: None, examples=50, seed=0).failures()) == []
    assert sorted(judged.values()) == [1, 1, 1]


def test_a_case_that_fails_is_judged_again_while_it_is_shrunk() -> None:
    judged: Counter[Spec] = Counter()

    def judge(case: Case) -> None:
        judged[case] += 1
        if case.adapters[0].rank > 1:
            raise Violation("raised", "too many ranks", case)

    (found,) = Search(FEW, judge, lambda found: None, examples=50, seed=0).failures()
    assert isinstance(found.case, Case)
    assert found.case.adapters[0].rank == 2
    assert judged[found.case] > 1


def test_what_is_listed_is_told_as_it_was_met_and_uses_up_no_search() -> None:
    judged: Counter[Spec] = Counter()

    def judge(case: Case) -> None:
        judged[case] += 1
        if case.adapters[0].rank > 1:
            raise Violation(f"rank {case.adapters[0].rank}", "too many ranks", case)

    def listed(found: Violation) -> bool:
        return found.anomaly == "rank 3"

    told: list[Violation] = []
    found = list(Search(FEW, judge, told.append, examples=50, seed=0, listed=listed).failures())
    assert [one.anomaly for one in found] == ["rank 2", "rank 3"]  # what is new first, made plain
    assert [one.anomaly for one in told] == ["rank 2"]
    assert sum(count for case, count in judged.items() if case == found[1].case) < 3
