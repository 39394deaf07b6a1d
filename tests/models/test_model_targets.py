"""What a TARGET names: a type, an architecture, a directory or a class; and what is said of anything else."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path

import pytest

from conformance.implementations.vllm.models.registry import converted, registered
from conformance.subjects.models import counterparts
from conformance.subjects.models.types import (
    ModelWithoutLoRA,
    Naming,
    NotBuildable,
    UnknownModel,
    everything,
    resolve,
    served_as,
)

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("name", "architecture", "naming"),
    [
        ("llama", "LlamaForCausalLM", Naming.TYPE),
        ("qwen3_5", "Qwen3_5ForConditionalGeneration", Naming.TYPE),
        ("deepseek_v32", "DeepseekV32ForCausalLM", Naming.TYPE),
        ("LlamaModel", "LlamaModel", Naming.ARCHITECTURE),
        ("Qwen3Model", "Qwen3Model", Naming.ARCHITECTURE),
        ("Qwen3VLModel", "Qwen3VLForConditionalGeneration", Naming.ARCHITECTURE),
        ("Gemma4Model", "Gemma4ForConditionalGeneration", Naming.ARCHITECTURE),
        ("vllm.model_executor.models.llama:LlamaForCausalLM", "LlamaForCausalLM", Naming.CLASS),
    ],
)
def test_a_name_stands_for_an_architecture(name: str, architecture: str, naming: Naming) -> None:
    target = resolve(name)
    assert (target.name, target.architecture, target.naming) == (name, architecture, naming)


def test_a_directory_stands_for_the_architecture_of_its_config(tmp_path: Path) -> None:
    content = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896}
    (tmp_path / "config.json").write_text(json.dumps(content))
    target = resolve(str(tmp_path))
    assert (target.model_type, target.architecture, target.naming) == ("qwen2", "Qwen2ForCausalLM", Naming.DIRECTORY)
    assert target.published()["hidden_size"] == 896


def test_an_unknown_name_is_told_the_nearest_ones() -> None:
    with pytest.raises(UnknownModel, match=r"'lama' is no model type.*llama"):
        resolve("lama")


def test_a_directory_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"without a config\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["FalconForCausalLM", "falcon", "vllm.model_executor.models.falcon:FalconForCausalLM"]
)
def test_a_class_without_lora_support_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelWithoutLoRA, match="Falcon"):
        resolve(name)


def test_an_architecture_that_cannot_be_built_says_why() -> None:
    with pytest.raises(NotBuildable, match="a draft model"):
        resolve("EagleLlamaForCausalLM")
    with pytest.raises(NotBuildable, match="its processor"):
        resolve("OpenPanguVLForConditionalGeneration")


def test_an_architecture_without_a_class_of_its_own_is_built_by_that_of_a_base_class() -> None:
    assert resolve("MiMoForCausalLM").implementation == "Qwen2ForCausalLM"


def test_every_architecture_with_lora_support_is_a_target_or_has_a_reason() -> None:
    targets, reasons = everything()
    assert not targets.keys() & reasons.keys()
    served = {**registered(), **counterparts.conversions()}
    assert targets.keys() | reasons.keys() == {name for name, entry in served.items() if entry.lora}


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("Qwen3ForSequenceClassification", "Qwen3ForCausalLM"),
        ("GptOssModel", "GptOssForCausalLM"),
        ("Qwen3VLModel", "Qwen3VLForConditionalGeneration"),
    ],
)
def test_what_vllm_converts_is_a_target_and_served_by_the_class_that_it_converts(name: str, base: str) -> None:
    assert resolve(name).implementation == name
    assert served_as(name) == registered()[base]
    assert name in counterparts.conversions()


def test_one_class_is_a_target_once_for_each_use() -> None:
    of_qwen = [name for name, entry in counterparts.conversions().items() if entry.architecture == "Qwen3ForCausalLM"]
    assert of_qwen == ["Qwen3ForSequenceClassification", "Qwen3Model"]


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "LlamaModel", "BertForSequenceClassification", "NoModel"])
def test_what_the_registry_has_by_itself_or_not_at_all_is_not_converted(name: str) -> None:
    assert converted(name) is None


def test_the_registry_as_read_from_the_source_is_the_one_that_vllm_has() -> None:
    from conformance.implementations.vllm.runtime import runtime

    runtime()
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import _VLLM_MODELS, _resolve_module_name

    told = {name: entry.place for name, entry in registered().items()}
    assert told == {name: (_resolve_module_name(module), cls) for name, (module, cls) in _VLLM_MODELS.items()}
    some = {name: place for name, place in told.items() if "Llama" in name or "Deepseek" in name or "Qwen" in name}
    assert {name: registered()[name].lora for name in some} == {
        name: bool(supports_lora(getattr(importlib.import_module(module), cls)))
        for name, (module, cls) in some.items()
    }


def test_what_transformers_warns_of_while_it_imports_a_class_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deprecating:
        def __getattr__(self, name: str) -> str:
            warnings.warn(f"{name} is deprecated", FutureWarning, stacklevel=2)
            return name

    monkeypatch.setattr(counterparts, "transformers", Deprecating)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counterparts.imported("AnyForCausalLM") == "AnyForCausalLM"
