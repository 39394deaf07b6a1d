"""What logits are compared with, and what stands in for attention: each can be told from what is wrong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.certification.clause_tests import bodies_of
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.doubles import in_double
from conformance.implementations.vllm import VllmImplementation
from conformance.implementations.vllm.models.forwards import attend
from conformance.judging.logits import require_logits
from conformance.judging.verdicts import Violation
from conformance.oracles.logits import Logits, RightLogits
from conformance.subjects.outcomes import NotApplicable, NotExercised
from conformance.subjects.subject import Subject
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices

CASE = ModelCase(adapter=ModelAdapter(modules=("o_proj",)))
BASE = torch.arange(6, dtype=torch.float64).reshape(2, 3)
STEP = 2.0**-20
RIGHT = RightLogits(
    torch.arange(2),
    Logits(BASE, (BASE + STEP).float()),
    Logits(BASE + 1, (BASE + 1 + STEP).float()),
)


def test_logits_inside_of_what_rounding_does_are_right() -> None:
    require_logits(CASE, RIGHT, BASE, BASE + 1 + STEP)


def test_one_logit_beyond_it_is_wrong() -> None:
    seen = BASE + 1
    seen[1, 2] += 2 * STEP
    with pytest.raises(Violation, match=r"logits\[1, 2\]=6, but should be 6 .* without the adapter 5") as caught:
        require_logits(CASE, RIGHT, BASE, seen)
    assert caught.value.anomaly == "other-logits"


def test_logits_of_the_base_have_lost_the_adapter() -> None:
    with pytest.raises(Violation) as caught:
        require_logits(CASE, RIGHT, BASE, BASE)
    assert caught.value.anomaly == "key-vanished"


def test_logits_that_are_no_numbers_are_wrong() -> None:
    with pytest.raises(Violation):
        require_logits(CASE, RIGHT, BASE, torch.full_like(BASE, float("nan")))


def test_a_model_that_differs_without_an_adapter_shows_nothing_of_adapters() -> None:
    with pytest.raises(NotExercised, match="without any adapter"):
        require_logits(CASE, RIGHT, BASE + 1, BASE)


def test_tokens_before_the_first_that_differs_are_compared() -> None:
    late = BASE.clone()
    late[1] += 1
    require_logits(CASE, RIGHT, late, BASE + 1)
    require_logits(CASE, RIGHT, late, BASE + torch.tensor([[1.0], [9.0]]))
    with pytest.raises(Violation, match=r"logits\[0, "):
        require_logits(CASE, RIGHT, late, BASE + 2)


@pytest.mark.parametrize("signal", [STEP / 2, float("nan")])
def test_an_adapter_that_changes_less_than_rounding_shows_nothing(signal: float) -> None:
    weak = replace(RIGHT, adapted=Logits(BASE + signal, (BASE + signal + STEP).float()))
    with pytest.raises(NotExercised, match="the adapter changes"):
        require_logits(CASE, weak, BASE, BASE)


def test_what_asks_for_less_gets_float64_and_stored_bytes_stay_what_they_are() -> None:
    with in_double():
        assert torch.ones(2, dtype=torch.float32).dtype == torch.ones(2).float().dtype == torch.float64
        assert torch.ones(2, dtype=torch.bfloat16).dtype == torch.float64
        assert torch.frombuffer(bytearray(4), dtype=torch.float32).numel() == 1
    assert torch.ones(2).dtype == torch.float32


def attended(tokens: int = 6, **options: Any) -> torch.Tensor:
    """What the stand-in makes of some queries, keys and values of 4 heads on 2, the first value being 100."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.rand(tokens, 2 * heads, generator=generator).double() for heads in (4, 2, 2))
    value[0] = 100
    implementation = SimpleNamespace(
        scale=0.5, logits_soft_cap=options.pop("cap", 0), sinks=options.pop("sinks", None)
    )
    return attend(
        SimpleNamespace(num_heads=4, num_kv_heads=2, sliding_window=options.get("window"), impl=implementation),
        query,
        key,
        value,
    )


def test_a_token_attends_to_itself_and_what_came_before() -> None:
    assert torch.equal(attended()[0], torch.full((8,), 100.0, dtype=torch.float64))
    assert bool((attended() > 1).all())


def test_a_window_counts_the_token_itself() -> None:
    assert torch.equal((attended(window=3) > 1).all(dim=-1), torch.tensor([True] * 3 + [False] * 3))


def test_a_sink_takes_its_share() -> None:
    assert not attended(sinks=torch.full((4,), 1e9).double()).any()


def test_a_cap_bounds_the_scores() -> None:
    second = attended(cap=1e-30)[1]  # all scores are as good as equal
    assert bool(((second >= 50) & (second <= 50.5)).all())  # the mean of 100 and a value in [0, 1)
    assert not bool(((attended()[1] >= 50) & (attended()[1] <= 50.5)).all())


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.set_grad_enabled(False)
    implementation = VllmImplementation()
    implementation.layers.prepare()
    return Subject(implementation, ThreadsEngine())


@pytest.mark.vllm
def test_a_small_model_gives_the_same_bits_in_either_library(subject: Subject) -> None:
    (body,) = bodies_of("MODEL-8")
    body(subject, ModelCase(target="olmo2", config=ConfigChoices(layers=2, kv_heads=2), adapter=CASE.adapter))


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("target", "reason"),
    [("falcon_h1", "nothing stands in for MambaMixer2"), ("qwen3_moe", "AssertionError: .*moe")],
)
def test_a_model_that_cannot_run_as_a_whole_is_not_applicable_with_the_reason(
    target: str, reason: str, subject: Subject
) -> None:
    (body,) = bodies_of("MODEL-8")
    with pytest.raises(NotApplicable, match=reason):
        body(subject, ModelCase(target=target, adapter=CASE.adapter))
