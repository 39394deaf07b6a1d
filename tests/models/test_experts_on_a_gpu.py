"""Experts on CUDA are judged by what vLLM's fused kernels make of them; compiled operators around those are ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from conformance.certification.clause_tests import bodies_of
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.implementations.vllm import VllmImplementation
from conformance.implementations.vllm.models.compiled import aligned, aligned_by_adapter, summed
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.verdicts import Violation
from conformance.subjects.subject import Subject
from strategies.cases import Dtype
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from tests.models.planted import EXPERTS, around, part

UNWRITTEN = -7


def written(length: int) -> torch.Tensor:
    return torch.full((length,), UNWRITTEN, dtype=torch.int32)


def test_places_lie_expert_by_expert_in_whole_blocks() -> None:
    ids = torch.tensor([[2, 0], [2, 1], [2, 0]], dtype=torch.int32)
    places, experts, length = written(12), written(6), written(1)
    aligned(ids, 4, 2, places, experts, length)
    assert places[:8].tolist() == [1, 5, 3, 6, 0, 2, 4, 6]  # 6 is past the last
    assert experts.tolist() == [0, 1, 2, 2, UNWRITTEN, UNWRITTEN]
    assert length.item() == 8


def test_each_adapter_has_the_places_of_its_own_tokens() -> None:
    ids = torch.tensor([[1, 0], [1, 0], [0, 1]], dtype=torch.int32)
    adapters, active = torch.tensor([1, -1, 0]), torch.tensor([-1, 0, 1])
    places, experts, lengths = written(24), written(12), written(2)
    aligned_by_adapter(ids, adapters, 2, 2, 2, 12, 6, places, experts, lengths, torch.tensor([1, 1, 0]), active)
    assert places.view(2, 12)[:, :4].tolist() == [[4, 6, 5, 6], [1, 6, 0, 6]]
    assert experts.view(2, 6)[:, :3].tolist() == [[0, 1, UNWRITTEN], [0, 1, UNWRITTEN]]
    assert lengths.tolist() == [4, 4]


def test_a_switched_off_adapter_has_no_places() -> None:
    lengths = written(2)
    of_all = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([1]), 1, 1, 2, 1, 1, written(2), written(2)
    aligned_by_adapter(*of_all, lengths, torch.tensor([1, 0, 0]), torch.tensor([1]))
    assert lengths.tolist() == [UNWRITTEN, UNWRITTEN]


def test_a_token_gets_the_sum_over_its_places_rounded_once() -> None:
    given = torch.tensor([[[256.0], [1.0], [1.0]]], dtype=torch.bfloat16)
    output = torch.empty(1, 1, dtype=torch.bfloat16)
    summed(given, output)
    assert output.item() == 258


def neighbours(stacked: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(one.roll(1, dims=1) for one in stacked)


def neighbours_factors(monkey: pytest.MonkeyPatch, wrapper: Any) -> None:
    def change(original: Any, self: Any, y: Any, x: Any, a: Any, b: Any, *given: Any, **named: Any) -> Any:
        return original(self, y, x, neighbours(a), neighbours(b), *given, **named)

    around(monkey, wrapper, "add_lora_fused_moe", change)


def gate_and_up_swapped(monkey: pytest.MonkeyPatch, wrapper: Any) -> None:
    def change(original: Any, self: Any, y: Any, x: Any, a: Any, b: Any, *given: Any, **named: Any) -> Any:
        return original(self, y, x, a[::-1], b[::-1], *given, **named)

    around(monkey, wrapper, "add_lora_w13", change)


def weight_of_the_token_dropped(monkey: pytest.MonkeyPatch, wrapper: Any) -> None:
    def change(original: Any, self: Any, *given: Any, **named: Any) -> Any:
        return original(self, *(False if one is True else one for one in given), **named)

    around(monkey, wrapper, "add_lora_fused_moe", change)


def scaling_forgotten(monkey: pytest.MonkeyPatch, wrapper: Any) -> None:
    monkey.setattr(part("lora_weights", "LoRALayerWeights"), "optimize", lambda self: self)


PLANTED: dict[Callable[[pytest.MonkeyPatch, Any], None], str] = {
    neighbours_factors: "other-expert",
    gate_and_up_swapped: "rows-moved",
    weight_of_the_token_dropped: UNEXPLAINED,  # what other experts add comes in, too
    scaling_forgotten: "scale-dropped",
}
CASE = ModelCase(
    target="qwen3_moe",
    dtype=Dtype.BFLOAT16,
    adapter=ModelAdapter(parameters=EXPERTS, alpha=8.0),
)


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="fused experts are Triton kernels")


@pytest.mark.vllm
@on_a_gpu
@pytest.mark.parametrize("clause", ["MODEL-1", "MODEL-2"])
def test_the_reference_which_is_asked_for_a_second_opinion_is_read_with_its_adapters(clause: str) -> None:
    torch.set_grad_enabled(False)
    layers = VllmImplementation(device="cuda").layers
    layers.prepare()
    for body in bodies_of(clause):
        body(Subject(ReferenceImplementation(layers), ThreadsEngine(), "cuda"), CASE)


@pytest.mark.vllm
@on_a_gpu
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_bug_behind_the_slots_is_caught_by_its_name(
    plant: Callable[[pytest.MonkeyPatch, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_grad_enabled(False)
    implementation = VllmImplementation(device="cuda")
    implementation.layers.prepare()
    subject = Subject(implementation, ThreadsEngine())
    (body,) = bodies_of("MODEL-2")
    body(subject, CASE)
    plant(monkeypatch, part("punica_wrapper.punica_gpu", "PunicaWrapperGPU"))
    with pytest.raises(Violation) as caught:
        body(subject, CASE)
    assert caught.value.anomaly == PLANTED[plant], caught.value.message
