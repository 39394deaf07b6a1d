"""Each bug planted between adapter file and model is caught by its clause, by name; without it the case passes."""

from __future__ import annotations

import pytest

from conformance.certification.clause_tests import bodies_of
from conformance.judging.verdicts import Violation
from conformance.subjects.subject import Subject
from tests.models import planted_in_names  # noqa: F401 - registers its bugs
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
