"""Each bug planted between adapter file and model is caught by its clause, by name; without it the case passes."""

from __future__ import annotations

import pytest

from conformance.certification.clause_tests import bodies_of
from conformance.judging.verdicts import Violation
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.subject import Subject
from tests.models import (  # noqa: F401 - register their bugs
    planted_beside_language,
    planted_in_company,
    planted_in_deployments,
    planted_in_forwards,
    planted_in_names,
)
from tests.models.planted import PLANTED

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught_by_its_name(name: str, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = PLANTED[name]
    (body,) = bodies_of(bug.clause)
    body(subject, bug.case)  # a case that vLLM serves rightly
    bug.plant(monkeypatch)
    with pytest.raises(Violation) as caught:
        body(subject, bug.case)
    assert caught.value.anomaly == bug.anomaly, caught.value.message


@pytest.mark.parametrize("name", [name for name, bug in PLANTED.items() if bug.clause == "MODEL-8"])
def test_what_a_forward_does_around_right_layers_only_its_logits_show(
    name: str, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = PLANTED[name]
    bug.plant(monkeypatch)
    for number in range(1, 8):
        (body,) = bodies_of(f"MODEL-{number}")
        body(subject, bug.case)


OF_LAYERS = ["scaling_applied_twice", "members_in_another_order", "layers_in_another_order"]


@pytest.mark.parametrize("name", OF_LAYERS)
def test_logits_that_a_wrong_layer_makes_wrong_are_left_to_the_clause_of_layers(
    name: str, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = PLANTED[name]
    bug.plant(monkeypatch)
    (body,) = bodies_of("MODEL-8")
    with pytest.raises(NotExercised, match=rf"wrong without what MODEL-8 is about already \[{bug.anomaly}\]"):
        body(subject, bug.case)
