"""A case that claims to be exact and cannot be is impossible to make."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from strategies.cases import AdapterSpec, Case, Layout, Regime
from strategies.codec import ImpossibleCase, from_dict, to_dict
from strategies.drawing import cases
from strategies.programs import ModelAdapterSpec, Program
from strategies.quantization import ANY
from strategies.validity import is_valid

SAID = "powers of two, received 0.3; 0.25 would be exact, and Regime.ROUNDED takes any"


def test_the_constructor_says_what_would_be_possible() -> None:
    with pytest.raises(ImpossibleCase, match=SAID):
        Case(adapters=(AdapterSpec(alpha=0.3),))


def test_a_step_from_rounded_to_exact_cannot_forget_the_scalings() -> None:
    rounded = Case(adapters=(AdapterSpec(alpha=0.3),), regime=Regime.ROUNDED)
    with pytest.raises(ImpossibleCase):
        replace(rounded, regime=Regime.EXACT)
    assert rounded.exact() == Case(adapters=(AdapterSpec(alpha=0.25),))


def test_the_codec_says_the_same() -> None:
    data = to_dict(Case(adapters=(AdapterSpec(alpha=0.3),), regime=Regime.ROUNDED)) | {"regime": "exact"}
    with pytest.raises(ImpossibleCase, match=SAID):
        from_dict(data, Case)


def test_programs_are_exact() -> None:
    with pytest.raises(ImpossibleCase, match=SAID):
        Program(adapters=(ModelAdapterSpec((AdapterSpec(alpha=0.3),)),))


@settings(max_examples=300, deadline=None)
@given(case=cases(quantizations=ANY, max_nesting=2, layouts=tuple(Layout), tokens=(0, 6)))
def test_what_is_drawn_is_valid(case: Case) -> None:
    assert is_valid(case)
