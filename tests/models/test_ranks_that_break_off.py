"""What one rank takes and another breaks off: the exception is seen, and charged to the option that causes it."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from conformance.certification.clause_tests import bodies_of
from conformance.implementations.vllm.models.hosted import EXPERT_PARALLEL
from conformance.judging.facts import Raised
from conformance.judging.ranks_of_models import ROLE_OF_WAYS
from conformance.judging.verdicts import Violation
from conformance.subjects.models.observing import chains
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.subject import Subject
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from tests.models.planted import EXPERTS, around, part

pytestmark = pytest.mark.vllm
(BODY,) = bodies_of("MODEL-7")
CASE = ModelCase(target="qwen3_moe", adapter=ModelAdapter(parameters=EXPERTS, rank=2), tp_size=2)


def second_rank_breaks_off(monkey: pytest.MonkeyPatch, *, with_the_option_alone: bool) -> None:
    manager = part("worker_manager", "LRUCacheWorkerLoRAManager")

    def told(original: Any, self: Any, model: Any, config: Any) -> Any:
        parallel = config.parallel_config
        self.breaks_off = (
            parallel.tensor_parallel_size > 1 and parallel.enable_expert_parallel >= with_the_option_alone
        )
        return original(self, model, config)

    def broken(original: Any, self: Any, request: Any) -> Any:
        if self.breaks_off and get_tensor_model_parallel_rank() == 1:
            raise StopIteration("no expert is left")
        return original(self, request)

    get_tensor_model_parallel_rank = importlib.import_module("vllm.distributed").get_tensor_model_parallel_rank
    around(monkey, manager, "create_lora_manager", told)
    around(monkey, manager, "add_adapter", broken)
    chains.cache_clear()  # what was found out of its chain without it


def test_what_a_rank_raised_is_seen_and_not_that_the_others_waited_for_it(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    BODY(subject, CASE)  # which vLLM serves rightly
    second_rank_breaks_off(monkeypatch, with_the_option_alone=True)
    with pytest.raises(Violation) as caught:
        BODY(subject, CASE)
    fact = caught.value.fact
    assert isinstance(fact, Raised)
    assert (fact.type, fact.text, caught.value.anomaly) == ("StopIteration", "no expert is left", "raised")
    assert caught.value.role == f"{ROLE_OF_WAYS} with {EXPERT_PARALLEL}"


def test_what_is_broken_off_without_an_option_too_is_not_charged_to_it(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_rank_breaks_off(monkeypatch, with_the_option_alone=False)
    with pytest.raises(NotExercised, match="StopIteration on loading"):
        BODY(subject, CASE)
