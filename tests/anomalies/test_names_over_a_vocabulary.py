"""A bug of the shared parts is called the same where it meets an embedding or an LM head as where it meets a layer."""

from __future__ import annotations

import pytest
import torch

from benchmarks.power.hunting import clause_tests, hunt, reference_subject
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.vocabulary import explain
from conformance.judging.anomalies.vocabulary_places import held
from conformance.oracles.vocabulary import dense
from conformance.values.vocabulary import tensors_of
from strategies.vocabulary import VocabularyCase, VocabularyLayer
from tests.mutants import gathering, numbers, sharding
from tests.mutants.planting import Mutant

SHARED = [
    (gathering.no_gather_just_copies, "gather-skipped"),
    (gathering.gathered_in_reverse, "gather-misordered"),
    (sharding.a_cut_by_the_adapters_rank, "shard-misplaced"),
    (numbers.scaling_lost, "scale-dropped"),
    (numbers.added_twice, "delta-doubled"),
    (numbers.never_added, "delta-dropped"),
    (numbers.subtracted, "scale-wrong"),
    (numbers.no_bias_with_adapters, "bias-dropped"),
    (numbers.bias_added_again, "bias-doubled"),
]


@pytest.mark.parametrize(("mutant", "name"), SHARED, ids=[mutant.name for mutant, _ in SHARED])
def test_a_bug_of_every_layer_has_its_name_on_an_lm_head(mutant: Mutant, name: str) -> None:
    subject = reference_subject()
    seen = (hunt(clause_tests()["MATH-15"], subject, seed=seed, patch=mutant.patch) for seed in range(5))
    assert name in (caught.anomaly for caught in seen if caught is not None)


def test_ids_lie_behind_padding_of_their_own() -> None:
    case = VocabularyCase(original=5, added=2, padding_size=4, tp_size=2)
    assert held(case) == [[0, 1, 2, 3, 5, 6], [4, None, None, None, None, None]]


def test_numbers_that_no_mistake_gives_are_unexplained() -> None:
    case = VocabularyCase(original=3, width=2, tokens=(0, -1), ids=(1, 2))
    tensors = tensors_of(case)
    assert explain(case, tensors, [dense(case, tensors) + 1000.5]) == UNEXPLAINED


def test_an_explanation_that_raises_does_not_hide_the_failure() -> None:
    case = VocabularyCase(layer=VocabularyLayer.LM_HEAD)
    assert explain(case, tensors_of(case), [torch.zeros(7, 7)]) == UNEXPLAINED
