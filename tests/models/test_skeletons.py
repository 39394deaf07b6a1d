"""Checkpoints of classes that transformers has no implementation of are named by what vLLM's loader takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from conformance.implementations.vllm.models.checkpoint_names import NamesUnknown, tensors_taken
from conformance.subjects.models.chains import make
from conformance.subjects.models.checkpoints import content_of, offer_of
from conformance.subjects.models.making import made
from conformance.subjects.models.types import resolve
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("subject")]  # which says that this is a CPU


@pytest.mark.parametrize(
    ("architecture", "modules"),
    [
        ("ExaoneForCausalLM", {"q_proj", "c_fc_0", "c_fc_1", "wte"}),
        ("InternLM2ForCausalLM", {"wqkv", "w1", "w3", "tok_embeddings"}),
        ("BailingMoeForCausalLM", {"query_key_value", "down_proj", "shared_experts.down_proj"}),
        ("DotsOCRForCausalLM", {"qkv", "fc1", "q_proj"}),
        ("AliceAIForCausalLM", {"linear_attn.q_proj", "f_a_proj", "self_attn.q_proj", "mlp_res_proj"}),
        ("DeciLMForCausalLM", {"q_proj", "gate_proj", "lm_head"}),
        ("GLM4VForCausalLM", {"linear_proj.dense_h_to_4h", "attention.query_key_value", "output_layer"}),
        ("InternVLChatModel", {"qkv", "mlp1.1", "gate_proj"}),
        ("IsaacForConditionalGeneration", {"vision_embedding.1", "vision_embedding.3", "k_proj"}),
        ("MiniCPMV", {"kv_proj", "model.layers.#.self_attn.q_proj", "encoder.layers.#.self_attn.q_proj"}),
        ("MolmoForCausalLM", {"att_proj", "ff_proj", "blocks.#.ff_out", "transformer.ff_out", "image_projector.w1"}),
        ("TeleChat2ForCausalLM", {"query", "key_value", "dense", "gate_proj"}),
        ("Molmo2ForConditionalGeneration", {"att_proj", "ff_out", "wk", "image_projector.w1"}),
        ("NemotronH_Nano_VL_V2", {"qkv", "mlp1.1", "in_proj", "q_proj"}),
        ("Phi4MMForCausalLM", {"qkv_proj", "gate_up_proj", "v_proj", "speech.0", "vision.2"}),
    ],
)
def test_peft_is_offered_the_modules_of_published_files(architecture: str, modules: set[str]) -> None:
    assert modules <= set(offer_of(resolve(architecture), ConfigChoices()).modules)


def test_layers_that_a_configuration_leaves_out_are_not_there() -> None:
    model: Any = made(resolve("DeciLMForCausalLM"), content_of(ModelCase(target="DeciLMForCausalLM")))
    names = [name for name, _ in model.model.layers.named_children()]
    assert names == ["0", "1", "2"]
    assert not hasattr(model.model.layers.get_submodule("1"), "self_attn")
    assert not hasattr(model.model.layers.get_submodule("2"), "mlp")


def test_convolutions_are_what_peft_takes_for_some() -> None:
    model: Any = made(resolve("InternVLChatModel"), content_of(ModelCase(target="InternVLChatModel")))
    assert isinstance(model.vision_model.embeddings.patch_embedding, nn.Conv2d)
    assert isinstance(model.get_decoder().embed_tokens, nn.Embedding)


def test_a_chain_is_made_of_a_skeleton(tmp_path: Path) -> None:
    chain = make(ModelCase(target="ExaoneForCausalLM", adapter=ModelAdapter(("q_proj", "wte"))), tmp_path)
    names = [pair.module for pair in chain.file.pairs]
    assert names == ["transformer.h.0.attn.attention.q_proj", "transformer.wte"]


def test_names_that_the_loader_does_not_take_are_refused(tmp_path: Path) -> None:
    content = content_of(ModelCase(target="ExaoneForCausalLM"))
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(NamesUnknown, match="ln_f"):
        tensors_taken(tmp_path, {r"ln_f": "final_norm"}, ("gate_proj", "up_proj", "down_proj"))
