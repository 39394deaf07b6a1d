"""Bugs in what a model's forward does around its layers, each of which is right by itself; `planted` has them, too."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from strategies.models.configs import ConfigChoices
from tests.models.planted import around, part, planted


def of_models(module: str, name: str) -> Any:
    """A class of vLLM's models."""
    return getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), name)


@contextmanager
def adding(layer: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, an adapter of ``layer`` adds ``change`` of what it adds otherwise."""
    forward = layer.forward
    base = layer.base_layer.forward if hasattr(layer, "base_layer") else forward

    def changed(given: Tensor) -> Any:
        output, bias = forward(given)
        plain = base(given)[0]
        return plain + change(output - plain), bias

    with patch.object(layer, "forward", changed):
        yield


@planted("MODEL-8", "key-vanished", "down_proj")
def weight_read_around_its_layer(monkey: pytest.MonkeyPatch) -> None:
    def around_it(self: Any, x: Tensor) -> Tensor:
        base = getattr(self.down_proj, "base_layer", self.down_proj)
        return torch.nn.functional.linear(self.act_fn(self.gate_up_proj(x)[0]), base.weight)

    monkey.setattr(of_models("llama", "LlamaMLP"), "forward", around_it)


@planted("MODEL-8", "other-logits", "o_proj", adapter={"alpha": 2.0}, config=ConfigChoices(layers=2))
def scaling_applied_twice_in_the_second_layer(monkey: pytest.MonkeyPatch) -> None:
    def twice(original: Any, self: Any, *given: Any, **named: Any) -> Any:
        with adding(self.o_proj, lambda delta: delta * (2 if ".1." in self.attn.layer_name else 1)):
            return original(self, *given, **named)

    around(monkey, of_models("llama", "LlamaAttention"), "forward", twice)


@planted("MODEL-8", "other-logits", "v_proj")
def adapter_of_the_values_added_to_the_keys(monkey: pytest.MonkeyPatch) -> None:
    def exchanged(original: Any, self: Any, *given: Any, **named: Any) -> Any:
        def change(delta: Tensor) -> Tensor:
            query, key, value = delta.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
            return torch.cat((query, value, key), dim=-1)

        with adding(self.qkv_proj, change):
            return original(self, *given, **named)

    around(monkey, of_models("llama", "LlamaAttention"), "forward", exchanged)


@planted("MODEL-8", "other-logits", "q_proj", target="qwen3")
def adapter_of_the_queries_added_after_their_norm(monkey: pytest.MonkeyPatch) -> None:
    def late(original: Any, self: Any, *given: Any, **named: Any) -> Any:
        held: list[Tensor] = []

        def hold(delta: Tensor) -> Tensor:
            held.append(delta[:, : self.q_size])
            return torch.cat((torch.zeros_like(held[0]), delta[:, self.q_size :]), dim=-1)

        norm = self.q_norm.forward
        with (
            adding(self.qkv_proj, hold),
            patch.object(self.q_norm, "forward", lambda query: norm(query) + held[0].view(query.shape)),
        ):
            return original(self, *given, **named)

    around(monkey, of_models("qwen3", "Qwen3Attention"), "forward", late)


@planted("MODEL-8", "other-logits", "k_proj")
def keys_turned_before_their_adapter_is_added(monkey: pytest.MonkeyPatch) -> None:
    def early(original: Any, self: Any, *given: Any, **named: Any) -> Any:
        held: list[Tensor] = []

        def hold(delta: Tensor) -> Tensor:
            held.append(delta[:, self.q_size : self.q_size + self.kv_size])
            without = delta.clone()
            without[:, self.q_size : self.q_size + self.kv_size] = 0
            return without

        rotary = self.rotary_emb.forward

        def turned(positions: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            query, key = rotary(positions, query, key)
            return query, key + held[0]

        with adding(self.qkv_proj, hold), patch.object(self.rotary_emb, "forward", turned):
            return original(self, *given, **named)

    around(monkey, of_models("llama", "LlamaAttention"), "forward", early)


@planted("MODEL-2", "weight-stolen", "o_proj", target="deepseek_v2")
def a_layer_that_was_handed_on_before_it_was_wrapped(monkey: pytest.MonkeyPatch) -> None:
    cls = part("model_manager", "LoRAModelManager")

    def keep(original: Any, self: Any) -> None:
        original(self)
        for module in self.model.modules():
            if type(module).__name__ == "MultiHeadLatentAttentionWrapper":
                module.o_proj = module.o_proj.base_layer

    around(monkey, cls, "_create_lora_modules", keep)
