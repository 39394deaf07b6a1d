"""Choices of a small configuration: plain data, of every kind, shrinking to the plainest."""

from __future__ import annotations

from hypothesis import find, given, settings

from strategies.codec import from_dict, to_dict
from strategies.models.configs import ConfigChoices, ModelTraits, config_choices

ALL = ModelTraits(experts=True, switches=(("attention_bias", True), ("qk_norm", True)))


def test_they_shrink_to_the_plainest() -> None:
    assert find(config_choices(ALL), lambda choices: True) == ConfigChoices()


def test_a_boolean_that_matters_is_what_remains() -> None:
    found = find(config_choices(ALL), lambda choices: ("qk_norm", True) in choices.switches)
    assert found == ConfigChoices(switches=(("qk_norm", True),))


@given(config_choices(ALL))
@settings(max_examples=50, database=None, deadline=None)
def test_they_go_to_plain_data_and_back(choices: ConfigChoices) -> None:
    assert from_dict(to_dict(choices), ConfigChoices) == choices
    assert eval(repr(choices)) == choices


@given(config_choices(ModelTraits(grouped=False, free_heads=False, even=True)))
@settings(max_examples=50, database=None, deadline=None)
def test_sizes_follow_from_each_other_where_the_type_has_it_so(choices: ConfigChoices) -> None:
    assert choices.heads == choices.kv_heads
    assert choices.hidden == choices.heads * choices.head_dim


@given(config_choices(ALL))
@settings(max_examples=50, database=None, deadline=None)
def test_heads_are_shared_out_evenly(choices: ConfigChoices) -> None:
    assert choices.heads % choices.kv_heads == 0
    assert choices.head_dim % 2 == 0


def test_sizes_differ_and_agree() -> None:
    assert find(config_choices(ALL), lambda one: one.heads * one.head_dim != one.hidden)
    assert find(config_choices(ALL), lambda one: one.intermediate == one.hidden)
    assert find(config_choices(ALL), lambda one: 2 * one.expert_intermediate == one.hidden)
    assert find(config_choices(ALL), lambda one: one.kv_heads == 1 and one.layers == 3)
