"""More bugs on the seam: of towers, connectors and heads; `planted` has them with its own."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from strategies.models.deployments import COPIED
from tests.models.planted import TOWERS, around, part, planted

CLASSIFIER = {"target": "Qwen3ForSequenceClassification", "adapter": {"saved": ("score",)}}


@planted("MODEL-10", "others-tokens", "attn.proj", **TOWERS)
def towers_go_by_the_tokens_of_text(monkey: pytest.MonkeyPatch) -> None:
    def of_text(original: Any, self: Any, name: str) -> Any:
        parts = self.mm_mapping
        if name in (*parts.tower_model, *parts.connector):
            return original(self, name)  # who maps tokens asks for a part by its name
        return self.punica_wrapper_mapping[parts.language_model[0]]

    around(monkey, part("model_manager", "LoRAModelManager"), "_get_punica_wrapper", of_text)


@planted("MODEL-10", "others-tokens", "attn.proj", "o_proj", **TOWERS)
def language_model_goes_by_the_tokens_of_towers(monkey: pytest.MonkeyPatch) -> None:
    def of_the_last(original: Any, self: Any, mapping: Any) -> None:
        original(self, mapping)
        original(self, type(mapping)(mapping.index_mapping, mapping.prompt_mapping, mapping.is_prefill))

    around(monkey, part("model_manager", "LoRAModelManager"), "_set_adapter_mapping", of_the_last)


@planted("MODEL-1", "key-vanished", "merger.mlp.0", **TOWERS)
def connector_in_no_declared_part(monkey: pytest.MonkeyPatch) -> None:
    models = importlib.import_module("vllm.model_executor.models.qwen2_5_vl")
    keys = importlib.import_module("vllm.model_executor.models.module_mapping").MultiModelKeys
    parts = keys.from_string_field(language_model="language_model", tower_model="visual.blocks.")
    monkey.setattr(models.Qwen2_5_VLForConditionalGeneration, "get_mm_mapping", lambda self: parts)


@planted("MODEL-2", "rows-moved", "language_model.layers.#.self_attn.q_proj", target="PixtralForConditionalGeneration")
def rows_of_rotary_embeddings_left_as_in_the_file(monkey: pytest.MonkeyPatch) -> None:
    models = importlib.import_module("vllm.model_executor.models.mistral")

    def left(original: Any, self: Any, name: str, weight: Any) -> Any:
        return original(self, name, weight)[0], weight

    around(monkey, models.MistralForCausalLM, "maybe_remap_mistral", left)


@planted("MODEL-1", "key-vanished", "o_proj", **CLASSIFIER)
def saved_head_left_out(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "BaseClassificationHeadWithLoRA")
    monkey.setattr(cls, "set_module_to_save", lambda self, slot, weight, bias: None)


@planted("MODEL-2", "unexplained", "o_proj", **CLASSIFIER)
def rows_of_a_saved_head_exchanged(monkey: pytest.MonkeyPatch) -> None:
    def exchanged(original: Any, self: Any, slot: int, weight: Any, bias: Any) -> None:
        original(self, slot, weight.flip(0), bias)

    around(monkey, part("layers", "BaseClassificationHeadWithLoRA"), "set_module_to_save", exchanged)


@planted("MODEL-7", "unexplained", "attn.proj", **TOWERS, deployment=COPIED, tp_size=2, fully_sharded=True)
def towers_that_a_rank_has_whole_are_cut_by_rank(monkey: pytest.MonkeyPatch) -> None:
    groups = importlib.import_module("vllm.distributed")

    def by_rank(original: Any, self: Any, base: Any) -> None:
        original(self, base)
        self.tp_size, self.tp_rank = (
            groups.get_tensor_model_parallel_world_size(),
            groups.get_tensor_model_parallel_rank(),
        )

    around(monkey, part("layers.base_linear", "BaseLinearLayerWithLoRA"), "__init__", by_rank)
