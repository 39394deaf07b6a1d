"""A bug of the shared parts is called the same where it meets a mixture of experts as where it meets a layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.power.hunting import clause_tests, hunt, reference_subject
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.experts import explain
from conformance.oracles.experts import dense
from conformance.values.experts import tensors_of
from strategies.experts import ExpertsAdapterSpec, ExpertsCase, experts_cases
from tests.mutants import gathering, numbers, sharding
from tests.mutants.planting import Mutant

SHARDED = [
    (gathering.no_gather_just_copies, "gather-skipped"),
    (gathering.gathered_in_reverse, "gather-misordered"),
    (sharding.first_ranks_columns_of_a, "shard-misplaced"),
    (sharding.every_rank_expands_the_first_columns, "shard-misplaced"),
]
# One rank: on several, a small case looks as much like a mistake of theirs.
UNSHARDED = [
    (numbers.scaling_lost, "scale-dropped"),
    (numbers.added_twice, "delta-doubled"),
    (numbers.never_added, "delta-dropped"),
    (numbers.subtracted, "scale-wrong"),
]


SHARED = [*((*one, (2, 4)) for one in SHARDED), *((*one, (1,)) for one in UNSHARDED)]


@pytest.mark.parametrize(("mutant", "name", "tp_sizes"), SHARED, ids=[mutant.name for mutant, *_ in SHARED])
def test_a_bug_of_every_layer_has_its_name_in_a_mixture(mutant: Mutant, name: str, tp_sizes: tuple[int, ...]) -> None:
    test = replace(clause_tests()["MATH-16"], strategy=experts_cases(tp_sizes=tp_sizes))
    seen = (hunt(test, reference_subject(), seed=seed, patch=mutant.patch) for seed in range(5))
    assert name in (caught.anomaly for caught in seen if caught is not None)


def test_numbers_that_no_mistake_gives_are_unexplained() -> None:
    case = ExpertsCase(experts=2, hidden_size=2, adapters=(ExpertsAdapterSpec(experts=(True, False)),))
    tensors = tensors_of(case)
    assert explain(case, tensors, [dense(case, tensors) + 1000.5]) == UNEXPLAINED


def test_ranks_that_disagree_are_unexplained() -> None:
    case = ExpertsCase(tp_size=2, intermediate_size=2)
    tensors = tensors_of(case)
    assert explain(case, tensors, [torch.full((1, 1), 1000.0), dense(case, tensors)]) == UNEXPLAINED
