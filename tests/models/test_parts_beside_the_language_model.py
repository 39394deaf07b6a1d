"""Heads without logits, heads that an adapter holds whole, and towers in a batch of images and text."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from conformance.certification.clause_tests import bodies_of
from conformance.implementations.vllm.models.readings import Reader
from conformance.judging.ranks_of_models import layers_dealt_out
from conformance.judging.verdicts import Violation
from conformance.subjects.models.chains import make
from conformance.subjects.models.checkpoints import content_of, offer_of
from conformance.subjects.models.observing import chains
from conformance.subjects.models.traits import has_towers
from conformance.subjects.models.types import resolve
from conformance.subjects.outcomes import NotApplicable, NotExercised
from conformance.subjects.subject import Subject
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase, ModelDraws
from strategies.models.configs import ConfigChoices, config_choices
from strategies.models.plain_cases import plain_cases

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("subject")]  # which says that this is a CPU

CLASSIFIER = ModelCase(
    target="Qwen3ForSequenceClassification", adapter=ModelAdapter(modules=("o_proj",), saved=("score",))
)
HEAD = ModelCase(target="ClefFlashForJointSchema", adapter=ModelAdapter(modules=("lm_head",)))
ENCODER = ModelCase(target="WhisperForConditionalGeneration", adapter=ModelAdapter(modules=("encoder.layers.#.fc1",)))


def test_a_head_that_an_adapter_holds_whole_is_a_part_of_its_file(tmp_path: Path) -> None:
    chain = make(CLASSIFIER, tmp_path)
    plain, head = chain.file.pairs
    key = "base_model.model.score.weight"
    base, merged = (load_file(where / "model.safetensors")["score.weight"] for where in (chain.base, chain.merged))
    assert (head.module, set(head.keys), head.rank, chain.file.others) == ("score", {key}, 0, ())
    assert head.delta.any()
    assert (base + head.delta).equal(merged)
    assert chain.file.alone((key,)) == {key, *plain.keys}  # vLLM, as PEFT, knows no file without A and B


def test_such_a_head_is_judged_before_anything_is_drawn() -> None:
    target = resolve(CLASSIFIER.target)
    draws = ModelDraws(CLASSIFIER.target, config_choices(), lambda choices: offer_of(target, choices))
    assert [case.adapter.saved for case in plain_cases(draws) if case.adapter.saved] == [("score",)]


def test_a_head_that_nothing_reads_through_logits_is_read_by_its_weight(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    (body,) = bodies_of("MODEL-1")
    with pytest.raises(Violation, match=r"key-vanished.*lm_head"):  # finding 105
        body(subject, HEAD)
    monkeypatch.setattr(Reader, "_head", lambda self, own: {})
    chains.cache_clear()  # which remembers what the merged checkpoint reads
    with pytest.raises(NotExercised, match="the class serves no such module"):
        body(subject, HEAD)


def test_a_tower_that_goes_by_the_tokens_of_text_is_found(subject: Subject) -> None:
    (body,) = bodies_of("MODEL-10")
    with pytest.raises(Violation, match=r"others-tokens.*encoder"):  # finding 112
        body(subject, ENCODER)


@pytest.mark.parametrize(
    ("target", "has"),
    [("LlamaForCausalLM", False), ("Qwen2_5_VLForConditionalGeneration", True), (ENCODER.target, True)],
)
def test_what_sees_or_hears_is_told_by_its_configuration(target: str, has: bool) -> None:
    assert has_towers(content_of(ModelCase(target=target))) is has


def test_a_model_without_towers_is_not_asked_for_their_tokens(subject: Subject) -> None:
    (body,) = bodies_of("MODEL-10")
    with pytest.raises(NotApplicable, match="neither sees nor hears"):
        body(subject, ModelCase(adapter=ModelAdapter(modules=("o_proj",))))


def test_the_offer_has_a_head_that_classifies_before_others() -> None:
    assert offer_of(resolve(CLASSIFIER.target), ConfigChoices()).saved[0] == "score"


def test_layers_of_a_tower_are_not_dealt_out_to_stages() -> None:
    molmo = "MolmoForCausalLM"
    assert offer_of(resolve(molmo), ConfigChoices()).layers > 1  # the tower has more than the language model
    assert layers_dealt_out(ModelCase(molmo)) == 1
    assert layers_dealt_out(ModelCase(molmo, ConfigChoices(layers=2))) == 2
