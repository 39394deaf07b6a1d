"""Row-parallel layers that leave their sum to the model."""

from __future__ import annotations

import pytest

from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.assertions import assert_outputs
from conformance.judging.verdicts import Violation
from conformance.oracles.linear import expected_of
from conformance.subjects.building import flatten
from conformance.subjects.subject import Subject
from lora_compat.families import Family
from strategies.cases import Case, LayerSpec, Layout

LAYER = LayerSpec(family=Family.ROW, input_size=2, bias=True, skip_bias_add=True, reduce_results=False)
SUBJECT = Subject(ReferenceImplementation(), ThreadsEngine())


@pytest.mark.parametrize("layout", list(Layout))
def test_partial_sums_are_judged_by_their_sum_in_every_layout(layout: Layout) -> None:
    case = Case(layer=LAYER, tp_size=2, tokens=(0, 0), layout=layout)
    outputs = SUBJECT.observe(case, lambda rank: flatten(rank.build().wrap().load().run()))
    outputs[0][0] += 1
    outputs[1][0] -= 1
    assert_outputs(case, outputs, expected_of(SUBJECT, case))


def test_a_rank_that_returns_too_few_tensors_is_a_finding_and_no_crash() -> None:
    case = Case(layer=LAYER, tp_size=2)
    outputs = SUBJECT.observe(case, lambda rank: flatten(rank.build().wrap().load().run()))
    with pytest.raises(Violation, match="rank 1: 1 tensors returned, but should be 2"):
        assert_outputs(case, [outputs[0], outputs[1][:1]], expected_of(SUBJECT, case))
