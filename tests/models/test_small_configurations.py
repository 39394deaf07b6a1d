"""A small configuration has every kind of layer that its type has, and the sizes that were chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conformance.subjects.models.configs import small_config
from conformance.subjects.models.counterparts import transformers
from conformance.subjects.models.heads import write_heads
from conformance.subjects.models.layer_lists import kept_layers, with_layers
from conformance.subjects.models.making import complete, made
from conformance.subjects.models.recipes import recipe_of
from conformance.subjects.models.traits import traits
from conformance.subjects.models.types import ModelTarget, Naming
from strategies.models.configs import ConfigChoices

UNEQUAL = ConfigChoices(heads=8, kv_heads=2, head_dim=8, hidden=96, intermediate=112, experts=6, vocabulary=100)
IMPLEMENTATIONS = {
    "llama": "LlamaForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "jamba": "JambaForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "llava": "LlavaForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "whisper": "WhisperForConditionalGeneration",
    "bert": "BertModel",
    "lfm2": "Lfm2ForCausalLM",
}


def target_of(model_type: str) -> ModelTarget:
    name = IMPLEMENTATIONS[model_type]
    return ModelTarget(name, model_type, name, name, Naming.ARCHITECTURE)


@pytest.mark.parametrize("model_type", IMPLEMENTATIONS)
def test_transformers_builds_it_with_plain_sizes(model_type: str) -> None:
    content = small_config(target_of(model_type), ConfigChoices())
    with torch.device("meta"):
        model = made(target_of(model_type), content)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "deepseek_v32"])
def test_transformers_builds_it_with_sizes_that_differ(model_type: str) -> None:
    with torch.device("meta"):
        model: Any = made(target_of(model_type), small_config(target_of(model_type), UNEQUAL))
    assert model.get_input_embeddings().weight.shape == (100, 96)
    assert model.model.layers[0].mlp.down_proj.weight.shape == (96, 112)


def test_a_small_llama_has_the_sizes_that_were_chosen() -> None:
    with torch.device("meta"):
        model: Any = made(target_of("llama"), small_config(target_of("llama"), UNEQUAL))
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (64, 96)
    assert attention.k_proj.weight.shape == (16, 96)


@pytest.mark.parametrize("layers", [1, 2])
def test_every_layer_type_is_there_as_often_as_asked_for(layers: int) -> None:
    content = small_config(target_of("gemma3_text"), ConfigChoices(layers=layers))
    assert sorted(content["layer_types"]) == ["full_attention"] * layers + ["sliding_attention"] * layers
    assert content["num_hidden_layers"] == 2 * layers


def test_layers_of_both_kinds_are_there_where_the_types_default_has_one() -> None:
    assert small_config(target_of("lfm2"), ConfigChoices())["layer_types"] == ["conv", "full_attention"]


def test_a_tower_whose_last_layers_are_left_out_has_one_that_is_used() -> None:
    content = small_config(target_of("llava"), ConfigChoices())
    assert content["vision_feature_layer"] == -2
    assert content["vision_config"]["num_hidden_layers"] == 2


def test_lists_that_say_which_layers_something_is_of_follow_the_layers_that_are_kept() -> None:
    config = {
        "num_hidden_layers": 6,
        "layer_types": list("aabbab"),
        "moe_layers": [1, 3, 5],
        "no_rope_layers": [1] * 6,
    }
    kept = kept_layers(config, 1)
    assert kept == (0, 2)
    assert with_layers(config, kept) == {
        "num_hidden_layers": 2,
        "layer_types": ["a", "b"],
        "moe_layers": [],
        "no_rope_layers": [1, 1],
    }


def test_layers_before_those_with_experts_are_counted_anew() -> None:
    config = {"num_hidden_layers": 9, "first_k_dense_replace": 3}
    assert with_layers(config, kept_layers(config, 2)) == {"num_hidden_layers": 4, "first_k_dense_replace": 2}


def test_tokens_are_inside_of_the_small_vocabulary() -> None:
    content = small_config(target_of("llava"), ConfigChoices(vocabulary=100))
    assert 50 <= content["image_token_index"] < 100


def test_a_directory_is_made_small_with_what_its_own_file_says(tmp_path: Path) -> None:
    published = {"model_type": "llama", "hidden_act": "gelu", "attention_bias": True, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(published))
    target = ModelTarget("x", "llama", "LlamaForCausalLM", "LlamaForCausalLM", Naming.DIRECTORY, str(tmp_path))
    content = small_config(target, ConfigChoices())
    assert (content["hidden_act"], content["attention_bias"], content["hidden_size"]) == ("gelu", True, 64)
    assert (content["vocab_size"], content["num_hidden_layers"]) == (128, 1)
    assert "torch_dtype" not in content


def test_layers_before_those_with_experts_are_kept_however_their_number_is_called() -> None:
    config = {"num_hidden_layers": 28, "moe_layer_start_index": 1}
    assert kept_layers(config, 1) == (0, 1)
    assert with_layers(config, (0, 1)) == {"num_hidden_layers": 2, "moe_layer_start_index": 1}


def test_a_boolean_that_is_turned_over_is_turned_over_in_the_model() -> None:
    target = target_of("llama")
    content = small_config(target, ConfigChoices(switches=(("attention_bias", True),)))
    with torch.device("meta"):
        model: Any = made(target, content)
    assert model.model.layers[0].self_attn.q_proj.bias is not None


def test_a_model_inside_of_another_one_is_of_the_type_that_was_chosen_and_small() -> None:
    content = small_config(target_of("llava"), ConfigChoices(switches=(("text_config.model_type", "qwen2"),)))
    inside = content["text_config"]
    assert (inside["model_type"], inside["hidden_size"], inside["num_hidden_layers"]) == ("qwen2", 64, 1)
    assert content["tie_word_embeddings"] == inside["tie_word_embeddings"]
    with torch.device("meta"):
        assert type(made(target_of("llava"), content).model.language_model).__name__ == "Qwen2Model"


def test_what_transformers_leaves_out_of_a_saved_file_is_put_back(tmp_path: Path) -> None:
    target = ModelTarget("IQuest", "llama", "IQuestCoderForCausalLM", "LlamaForCausalLM", Naming.ARCHITECTURE)
    content = small_config(target, ConfigChoices()) | {"said_by_published_files": 3}
    model: Any = made(target, content)
    model.save_pretrained(tmp_path)
    complete(tmp_path, content)
    saved = transformers().PreTrainedConfig.get_config_dict(str(tmp_path))[0]
    assert saved["said_by_published_files"] == 3
    assert saved["architectures"] == ["IQuestCoderForCausalLM"]


def test_heads_of_a_vllm_class_stand_in_the_files_that_it_asks_for(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    for name in ("BgeM3EmbeddingModel", "D3ForSequenceClassification", "OpsColQwen3Model", "LlamaForCausalLM"):
        write_heads(tmp_path, {"architectures": [name]}, hidden=8)
    assert torch.load(tmp_path / "colbert_linear.pt")["weight"].shape == (8, 8)
    assert load_file(tmp_path / "readout.safetensors")["weight"].shape == (2, 8)
    assert sorted(load_file(tmp_path / "model.safetensors")) == ["custom_text_proj.weight", "weight"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {"weight_map": {"weight": "model.safetensors"}}  # readout.safetensors is not of the model itself


def test_what_an_architecture_needs_is_put_over_what_its_type_does() -> None:
    both = recipe_of("qwen3_omni_moe", "ClefOmniForJointSchema")
    assert set(both["before"]) > {"joint_head_config", "enable_audio_output"}
    assert both["after"] == recipe_of("qwen3_omni_moe", "")["after"]


def test_traits_tell_what_a_type_leaves_open() -> None:
    assert not traits(target_of("llama")).experts
    assert traits(target_of("qwen3_moe")).experts
    assert traits(target_of("falcon_h1")).even
    assert not traits(target_of("bert")).grouped


@pytest.mark.parametrize("choices", [ConfigChoices(), ConfigChoices(heads=8, head_dim=24, hidden=192)])
def test_the_parts_of_a_rotary_embedding_fill_half_of_the_head(choices: ConfigChoices) -> None:
    text = small_config(target_of("qwen2_5_vl"), choices)["text_config"]
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    assert sum(text["rope_parameters"]["mrope_section"]) == head_dim // 2


def test_experts_are_in_one_group() -> None:
    config = small_config(target_of("deepseek_v32"), ConfigChoices(experts=6))
    assert config["n_routed_experts"] % config["n_group"] == 0
    assert config["topk_group"] <= config["n_group"]
