"""The shape of the minimum: what Hypothesis leaves of a case that only has to keep one property.

Choices drawn together (a forward with a loader, say) it leaves together; `conformance.search.settling` does the
rest, see tests/shrinking.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, find, settings

from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, Heads, LayerSpec, Layout, Regime, WrapperKind
from strategies.drawing import cases
from strategies.ranks import RankQuestion, rank_questions
from strategies.subclasses import SubclassSpec

QUICK = settings(
    max_examples=2000, database=None, deadline=None, phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "least"),
    [
        (lambda case: True, Case()),
        (lambda case: len(case.tokens) == 3, Case(tokens=(0, 0, 0))),
        (lambda case: -1 in case.tokens, Case(tokens=(-1,))),
        (lambda case: case.regime is Regime.ROUNDED, Case(regime=Regime.ROUNDED)),
        (lambda case: case.tp_size == 4 and case.fully_sharded, Case(tp_size=4, fully_sharded=True)),
        (lambda case: len(case.adapters) == 2, Case(max_loras=2, adapters=(AdapterSpec(), AdapterSpec(slot=1)))),
        (lambda case: case.adapters[0].rank == 5, Case(max_rank=8, adapters=(AdapterSpec(rank=5, alpha=5.0),))),
        (lambda case: case.subclass.depth == 2, Case(subclass=SubclassSpec(depth=2))),
        (
            lambda case: case.layer.family is Family.ROW and case.layer_tp_size == 2,
            Case(layer=LayerSpec(family=Family.ROW, input_size=2), tp_size=2),
        ),
        (
            lambda case: case.layer.heads is not None,
            Case(
                layer=LayerSpec(family=Family.QKV, output_sizes=(1, 1, 1), heads=Heads()),
                packed=(1, 1, 1),
                adapters=(AdapterSpec(present=(True, True, True)),),
            ),
        ),
    ],
)
def test_a_case_shrinks_to_the_plainest_that_still_has_the_property(
    wanted: Callable[[Case], bool], least: Case
) -> None:
    assert find(cases(), wanted, settings=QUICK, random=Random(0)) == least


def test_options_only_some_clauses_draw_shrink_away_too() -> None:
    strategy = cases(layouts=tuple(Layout), max_nesting=6, tokens=(0, 6))
    assert find(strategy, lambda case: True, settings=QUICK, random=Random(0)) == Case(tokens=())
    nested = find(strategy, lambda case: len(case.nesting) == 2, settings=QUICK, random=Random(0))
    assert nested == Case(tokens=(), nesting=(WrapperKind.BARE, WrapperKind.BARE))


def test_a_rank_question_shrinks_to_one_module() -> None:
    assert find(rank_questions(), lambda question: True, settings=QUICK, random=Random(0)) == RankQuestion()
    assert find(rank_questions(), lambda question: 4 in question.shards, settings=QUICK, random=Random(0)).shards == (
        4,
    )
