"""More bugs on the seam: of models that other code serves, or of which a part is; `planted` has them with its own."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from conformance.implementations.vllm.models.classes import TRANSFORMERS
from conformance.implementations.vllm.models.server import NO_TOWERS
from strategies.models.configs import ConfigChoices
from tests.models.planted import around, part, planted

BACKEND_MODULE = "vllm.model_executor.models.transformers.base"
BACKEND = {"options": (TRANSFORMERS,)}
TEXT_ALONE = {"target": "LlavaForConditionalGeneration", "options": (NO_TOWERS,)}
TIED = {"config": ConfigChoices(switches=(("tie_word_embeddings", True),))}


@planted("MODEL-1", "key-vanished", "o_proj", "gate_proj", **BACKEND)
def names_of_the_backend_are_those_of_no_checkpoint(monkey: pytest.MonkeyPatch) -> None:
    def other(original: Any, self: Any, lora: Any, name: str) -> Any:
        own = isinstance(self.model, importlib.import_module(BACKEND_MODULE).Base)
        return original(self, lora, f"model.{name}" if own else name)

    around(monkey, part("model_manager", "LoRAModelManager"), "_get_lora_layer_weights", other)


@planted("MODEL-2", "rows-moved", "gate_proj", "up_proj", **BACKEND)
def what_the_backend_fuses_is_declared_in_another_order(monkey: pytest.MonkeyPatch) -> None:
    def turned(original: Any, self: Any) -> None:
        original(self)
        for members in self.packed_modules_mapping.values():
            members.reverse()

    around(monkey, importlib.import_module(BACKEND_MODULE).Base, "recursive_replace", turned)


@planted("MODEL-6", "does-not-start", "o_proj", **TEXT_ALONE)
def room_is_asked_of_towers_that_are_off(monkey: pytest.MonkeyPatch) -> None:
    def largest(original: Any, self: Any, config: Any, tokens: int) -> None:
        original(self, config, tokens)
        limits = config.model_config.multimodal_config
        max(number for one in ("image", "audio") if (number := limits.get_limit_per_prompt(one)))

    around(monkey, part("model_manager", "LoRAModelManager"), "_maybe_init_mm", largest)


@planted("MODEL-1", "key-vanished", "o_proj", "down_proj", **TEXT_ALONE)
def names_of_the_whole_are_unknown_to_the_language_model_alone(monkey: pytest.MonkeyPatch) -> None:
    def unknown(original: Any, self: Any, lora: Any, name: str) -> Any:
        alone = not self.model.multimodal_config.get_limit_per_prompt("image")
        return None if alone and "o_proj" in name else original(self, lora, name)

    around(monkey, part("model_manager", "LoRAModelManager"), "_get_lora_layer_weights", unknown)


@planted("MODEL-1", "key-vanished", "embed_tokens", "lm_head", **TIED)
def of_two_ends_with_one_weight_one_is_served(monkey: pytest.MonkeyPatch) -> None:
    def lose(original: Any, self: Any, lora: Any) -> Any:
        original(self, lora)
        if "lm_head" in lora.loras:
            lora.loras.pop("model.embed_tokens", None)

    around(monkey, part("model_manager", "LoRAModelManager"), "_add_adapter", lose)
