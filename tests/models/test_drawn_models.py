"""Cases of whole models: one model and adapter for all clauses, shrinking to the plainest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import Phase, find
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from conformance.certification.clause_tests import checks_of
from conformance.contract import MODEL_CLAUSES
from conformance.search.drawing import draw_cases
from strategies.models.adapters import Targetable
from strategies.models.cases import ModelCase, ModelDraws, model_cases, targeting_model
from strategies.models.configs import ConfigChoices, ModelTraits, config_choices
from strategies.models.plain_cases import plain_cases

OFFER = Targetable(
    ("q_proj", "o_proj", "gate_proj", "up_proj"), ("experts.gate_up_proj", "gate.weight"), layers=2, saved=("score",)
)
DRAWS = ModelDraws("drawn", config_choices(ModelTraits(experts=True)), lambda config: OFFER, options=("towers",))
OF_THEIR_OWN = ("MODEL-9", "MODEL-11")  # which draw a dozen adapters of the plainest model


def drawn(strategy: SearchStrategy[ModelCase]) -> list[ModelCase]:
    found: list[ModelCase] = []
    with targeting_model(DRAWS):
        draw_cases(strategy, found.append, examples=30, seed=1, phases=[Phase.generate])
    return found


def plain(offer: Callable[[ConfigChoices], Targetable], **more: Any) -> list[ModelCase]:
    return plain_cases(ModelDraws("plain", config_choices(), offer, **more))


def test_the_plainest_model_is_judged_in_each_other_way_of_serving_it() -> None:
    found = plain(lambda config: OFFER, ways=(("other code",), ("towers", "text alone")))
    assert {case.options for case in found} == {(), ("other code",), ("towers", "text alone")}


def test_ends_that_share_a_weight_are_adapted_together() -> None:
    def offer(config: ConfigChoices) -> Targetable:
        return Targetable(("o_proj", "lm_head", "embed_tokens"), tied=("embed_tokens",) if config.switches else ())

    (case,) = (one for one in plain(offer, switches=(("tie", True),)) if "embed_tokens" in one.adapter.modules[:1])
    assert case.adapter.modules == ("embed_tokens", "lm_head")
    assert case.config.switches == (("tie", True),)


def test_an_option_that_leaves_one_layer_no_experts_is_turned_over_in_two() -> None:
    def offer(config: ConfigChoices) -> Targetable:
        sparse = config.layers == 2 or not config.switches
        return Targetable(("o_proj",), ("experts.down_proj",) if sparse else ())

    found = plain(offer, switches=(("step", 2),))
    assert {case.config.layers for case in found if case.config.switches} == {2}


def test_one_expert_of_a_mixture_is_adapted_where_each_has_modules_of_its_own() -> None:
    found = plain(lambda config: Targetable(("o_proj", "experts.#.down_proj")))
    assert [case for case in found if case.adapter.modules == ("experts.0.down_proj",)]


@cache
def chains_of(clause: str) -> list[ModelCase]:
    """The cases of a clause, wherever they are served."""
    (test,) = checks_of(clause)
    assert isinstance(test.strategy, SearchStrategy)
    return [
        replace(case, tp_size=1, fully_sharded=False, adapter=replace(case.adapter, saved=()))
        for case in drawn(test.strategy)
    ]


def test_all_clauses_are_asked_of_the_same_models_and_adapters() -> None:
    first, *others = (chains_of(clause) for clause in MODEL_CLAUSES if clause not in OF_THEIR_OWN)
    assert len(set(first)) > 20
    assert all(other == first for other in others)


def test_a_case_is_served_on_each_number_of_ranks_that_a_clause_asks_for() -> None:
    found = drawn(model_cases(tp_sizes=(2, 4)))
    assert {(case.tp_size, case.fully_sharded) for case in found} == {(2, False), (2, True), (4, False), (4, True)}
    assert not any(case.fully_sharded for case in drawn(model_cases(tp_sizes=(1,))))


def test_layers_are_dealt_out_to_stages_now_and_then_where_there_are_enough_of_them() -> None:
    found = drawn(model_cases())
    assert 5 < sum(case.stages == 2 for case in found) < 25
    assert {case.stage for case in found} == {None}  # which is the clause's to choose
    assert {case.stages for case in plain_cases(DRAWS)} == {1, 2}
    of_one_layer = replace(DRAWS, offer=lambda config: replace(OFFER, layers=1))
    with targeting_model(of_one_layer), pytest.raises(NoSuchExample):
        find(model_cases(), lambda case: case.stages > 1)


def test_they_shrink_to_one_target_on_one_rank() -> None:
    with targeting_model(DRAWS):
        found = find(model_cases(), lambda case: True)
    assert found == ModelCase("drawn", adapter=replace(found.adapter, modules=("q_proj",), parameters=(), rank=1))
