"""vLLM loads what is made small, with LoRA on, on a CPU: one type of each kind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.model_types import attempt
from conformance.engines.ranks import RankGroup
from conformance.implementations.models import LOGITS, OUTPUT, ModelSettings
from conformance.implementations.vllm.models.readings import Reader
from conformance.subjects.models.checkpoints import content_of, model_of, save
from conformance.subjects.models.observing import server_of
from conformance.subjects.models.recipes import RECIPES
from conformance.subjects.models.types import resolve
from conformance.subjects.subject import Subject
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices

pytestmark = pytest.mark.vllm

UNEQUAL = ConfigChoices(layers=2, heads=8, kv_heads=2, head_dim=8, hidden=96, intermediate=112, vocabulary=100)


@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLM",
        "DeepseekV32ForCausalLM",  # sparse attention
        "GlmMoeDsaForCausalLM",
        "Qwen3MoeForCausalLM",
        "NemotronHForCausalLM",  # state spaces, and experts without a gate
        "Qwen2_5_VLForConditionalGeneration",
        "BertModel",
        "LlamaModel",
        "ArceeForCausalLM",  # by vLLM's backend for transformers' own classes
        "HunYuanVLForConditionalGeneration",  # whose processor is asked what it takes
        "BgeM3EmbeddingModel",  # heads in files of their own, which are no safetensors
        "D3ForSequenceClassification",  # a head in a file beside that of the weights
        "ClefFlashForJointSchema",
        "ColQwen3_5",  # a head in the file of the weights
        "OpsColQwen3Model",
        "Cosmos3ForConditionalGeneration",  # weights in a folder
        "Ernie4_5_VLMoeForConditionalGeneration",  # read by a configuration that is not transformers'
        "InternS1ProForConditionalGeneration",  # rotary embeddings with weights
        "Qwen4ExpForCausalLM",  # which asks for flash attention
        "Alpamayo2Super",  # all of a model of transformers inside of another one
        "VoxtralRealtimeGeneration",  # whose tokenizer says how sounds are encoded
    ],
)
def test_a_small_model_loads(name: str) -> None:
    assert str(attempt(resolve(name))) == f"| {name} | {resolve(name).model_type} | yes | yes |"


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(
    ("target", "recipe"),
    [("VoxtralForConditionalGeneration", "voxtral"), ("PixtralForConditionalGeneration",) * 2],
)
def test_a_checkpoint_in_mistrals_format_is_loaded_as_transformers_has_its_rows(
    target: str, recipe: str, interleaved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Subject
) -> None:
    if not interleaved:
        monkeypatch.setitem(RECIPES[recipe], "interleaved", {})  # type: ignore[misc]
    case = ModelCase(target=target)
    model = model_of(case, content_of(case))
    save(model, tmp_path, content_of(case))
    served = server_of(subject).load(tmp_path, ModelSettings(), RankGroup(0, 1, lambda rank, issued, tensor: [tensor]))
    layer = model.get_submodule("model.language_model.layers.0.self_attn")
    rows = torch.cat([layer.get_submodule(f"{one}_proj").weight for one in "qkv"])
    got = served.read(None)["language_model.model.layers.0.self_attn.qkv_proj"][OUTPUT]
    assert torch.equal(got.T, rows) is interleaved


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "DeepseekV32ForCausalLM", "ArceeForCausalLM"])
def test_a_small_model_with_sizes_that_differ_loads(name: str) -> None:
    assert attempt(resolve(name), UNEQUAL).works


@pytest.mark.parametrize("pools", [False, True])
def test_a_model_that_pools_has_no_logits_to_compare(pools: bool) -> None:
    model: Any = nn.Linear(4, 4)
    model.compute_logits, model.is_pooling_model = model.forward, pools
    config = SimpleNamespace(model_config=SimpleNamespace(get_hidden_size=lambda: 4, dtype=torch.float32))
    assert (LOGITS in Reader(model, config).names) is not pools
