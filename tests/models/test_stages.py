"""One process loads stages of one model after whole ones, and each has its own layers."""

from __future__ import annotations

import pytest

from conformance.implementations.vllm.groups import MissingLayers, staged


def test_what_a_load_remembered_of_a_model_is_forgotten_by_the_next() -> None:
    remembered = MissingLayers()
    with staged((0, 2)):
        remembered[7] = ["layers.1."]
        assert 7 in remembered
        assert remembered[7] == ["layers.1."]
    with staged((0, 1)):  # whose model may have the same id
        assert 7 not in remembered
        with pytest.raises(KeyError):
            remembered[7]
