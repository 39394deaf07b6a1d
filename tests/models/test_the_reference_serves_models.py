"""Chapter MODEL on the reference, on models that are hard to serve: what it takes is right, the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from conformance.certification.clause_tests import bodies_of
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.implementations.vllm.layers import VllmLayers
from conformance.judging.verdicts import Violation
from conformance.subjects.outcomes import FileRefused, NotApplicable
from conformance.subjects.subject import Subject
from lora_compat.peft_loading import read_tensors
from strategies.models.adapters import FURTHER_LAYER, SAVED_EMBEDDING, ModelAdapter
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices

pytestmark = pytest.mark.vllm

EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
SIZES = ConfigChoices(experts=6, expert_intermediate=24)  # of which nothing is square
CASES = {
    "packed": ModelCase(adapter=ModelAdapter(modules=("q_proj", "up_proj"), rank=3, alpha=3.0)),
    "rows in another order": ModelCase(target="Llama4ForCausalLM", adapter=ModelAdapter(modules=("q_proj", "k_proj"))),
    "packed, and declared by nobody": ModelCase(
        target="Qwen2VLForConditionalGeneration", adapter=ModelAdapter(modules=("gate_proj",))
    ),
    "in a layer that nobody declares": ModelCase(
        target="deepseek_v32", adapter=ModelAdapter(modules=("wk", "weights_proj"))
    ),
    "fused experts": ModelCase(
        target="qwen3_moe", config=SIZES, adapter=ModelAdapter(modules=(), parameters=EXPERTS, rank=2, alpha=4.0)
    ),
    "a router that is a plain layer": ModelCase(
        target="qwen3_moe", config=SIZES, adapter=ModelAdapter(modules=(), parameters=("gate.weight",))
    ),
    "experts under another name than in the checkpoint": ModelCase(
        target="mixtral", config=SIZES, adapter=ModelAdapter(modules=(), parameters=EXPERTS, rank=2, alpha=4.0)
    ),
    "a tower and the language model together": ModelCase(
        target="Qwen2VLForConditionalGeneration", adapter=ModelAdapter(modules=("qkv", "gate_proj"))
    ),
    "an embedding": ModelCase(adapter=ModelAdapter(modules=("embed_tokens",))),
    "a tied head": ModelCase(target="gemma3_text", adapter=ModelAdapter(modules=("embed_tokens",))),
    "a language model beside a tower": ModelCase(
        target="LlavaForConditionalGeneration", adapter=ModelAdapter(modules=("gate_proj",))
    ),
    "a head that classifies, saved whole": ModelCase(
        target="Qwen3ForSequenceClassification", adapter=ModelAdapter(modules=("q_proj",), saved=("score",))
    ),
    "a head that its class always ties": ModelCase(target="lfm2", adapter=ModelAdapter(modules=("embed_tokens",))),
}
REFUSED = {
    "a weight that attention has absorbed": ("deepseek_v3", ModelAdapter(modules=("kv_b_proj",)), "NotServedError"),
}


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.set_grad_enabled(False)
    implementation = ReferenceImplementation(VllmLayers("cpu"))
    implementation.layers.prepare()
    return Subject(implementation, ThreadsEngine())


@pytest.mark.parametrize("clause", ["MODEL-2", "MODEL-3", "MODEL-5"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_right(name: str, clause: str, subject: Subject) -> None:
    (body,) = bodies_of(clause)
    body(subject, CASES[name])


def test_it_is_right_on_several_ranks(subject: Subject) -> None:
    (body,) = bodies_of("MODEL-7")
    adapter = ModelAdapter(modules=("q_proj", "o_proj", "down_proj", "embed_tokens", "lm_head"), rank=3, alpha=6.0)
    body(subject, ModelCase(adapter=adapter, tp_size=4))


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_serve_it_refuses_by_name(name: str, subject: Subject) -> None:
    target, adapter, kind = REFUSED[name]
    (body,) = bodies_of("MODEL-2")
    with pytest.raises(FileRefused, match=kind):
        body(subject, ModelCase(target=target, adapter=adapter))


def test_a_tower_goes_by_its_own_tokens(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    (body,) = bodies_of("MODEL-10")
    case = ModelCase(target="Qwen2VLForConditionalGeneration", adapter=ModelAdapter(modules=("qkv", "gate_proj")))
    body(subject, case)
    monkeypatch.setattr("conformance.implementations.reference.models.ReferenceModel._outermost", lambda self: ())
    with pytest.raises(Violation, match="others-tokens"):
        body(subject, case)


def test_ranks_may_have_whole_experts(subject: Subject) -> None:
    (body,) = bodies_of("MODEL-7")
    adapter = ModelAdapter(modules=(), parameters=EXPERTS, rank=4, alpha=4.0)
    body(subject, ModelCase(target="mixtral", config=SIZES, adapter=adapter, tp_size=2))


SAVED = ModelCase(adapter=ModelAdapter(modules=("o_proj", "embed_tokens"), feature=SAVED_EMBEDDING))


def test_an_embedding_saved_beside_an_adapter_that_is_not_the_models_is_refused(subject: Subject) -> None:
    (body,) = bodies_of("MODEL-9")
    body(subject, SAVED)


def test_a_layer_that_the_model_has_not_is_refused(subject: Subject) -> None:
    (body,) = bodies_of("MODEL-9")
    body(subject, ModelCase(adapter=ModelAdapter(modules=("o_proj",), feature=FURTHER_LAYER)))


def test_one_that_is_skipped_is_found(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(directory: Path) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in read_tensors(directory).items() if ".base_layer." not in key}

    monkeypatch.setattr("lora_compat.checkpoint_map.adapter_loading.read_tensors", skipping)
    (body,) = bodies_of("MODEL-9")
    with pytest.raises(Violation, match="feature-ignored"):
        body(subject, SAVED)


@pytest.mark.parametrize(
    ("target", "tied", "reason"),
    [
        ("lfm2", False, "embed_tokens and lm_head have one weight, where the configuration has two"),
        ("jamba", True, "lm_head gets no numbers from the checkpoint"),
    ],
)
def test_a_class_with_other_ends_than_its_configuration_is_not_judged(
    target: str, tied: bool, reason: str, subject: Subject
) -> None:
    config = ConfigChoices(switches=(("tie_word_embeddings", tied),))
    (body,) = bodies_of("MODEL-2")
    with pytest.raises(NotApplicable, match=reason):
        body(subject, ModelCase(target=target, config=config, adapter=ModelAdapter(modules=("lm_head",))))
