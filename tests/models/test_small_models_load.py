"""vLLM loads what is made small, with LoRA on, on a CPU: one type of each kind."""

from __future__ import annotations

import pytest

from benchmarks.model_types import attempt
from conformance.subjects.models.types import resolve
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
        "Alpamayo2Super",  # all of a model of transformers inside of another one
    ],
)
def test_a_small_model_loads(name: str) -> None:
    assert str(attempt(resolve(name))) == f"| {name} | {resolve(name).model_type} | yes | yes |"


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "DeepseekV32ForCausalLM", "ArceeForCausalLM"])
def test_a_small_model_with_sizes_that_differ_loads(name: str) -> None:
    assert attempt(resolve(name), UNEQUAL).works
