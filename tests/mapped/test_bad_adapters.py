"""A bad adapter of a model that is served by its map is one clear error, and leaves everything as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_compat import LoRAConfig, LoRAError, LoRAManager
from tests.mapped.models import HIDDEN, IDS, loaded, made, maps

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENS = torch.arange(IDS)
A, B = "base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"
Tensors = dict[str, Tensor]


def told(**options: object) -> Callable[[Path], None]:
    """A configuration that says something else; None: says nothing of it."""

    def change(directory: Path) -> None:
        config = json.loads((directory / CONFIG).read_text()) | options
        (directory / CONFIG).write_text(json.dumps({key: one for key, one in config.items() if one is not None}))

    return change


def held(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    """A file with other tensors."""
    return lambda directory: save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS)


def _renamed(tensors: Tensors) -> Tensors:
    return {key.replace(".q.", ".transformer.h.0.attn.c_attn."): one for key, one in tensors.items()}


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "another model's": (held(_renamed), ("transformer.h.0.attn.c_attn", "take")),
    "no configuration": (lambda where: (where / CONFIG).unlink(), ("has no adapter_config.json",)),
    "a configuration that is none": (lambda where: (where / CONFIG).write_text("[]"), ("holds list",)),
    "no tensors": (lambda where: (where / WEIGHTS).unlink(), ("has no adapter_model.safetensors",)),
    "cut short": (lambda where: (where / WEIGHTS).write_bytes(b"{}"), ("cut short",)),
    "an empty file": (held(lambda tensors: {}), ("no LoRA tensors",)),
    "an unknown type": (told(peft_type="VERA"), ("peft_type is 'VERA'",)),
    "no type that is a word": (told(peft_type=5), ("peft_type is 5",)),
    "no rank": (told(r=None), ("lacks 'r'",)),
    "a rank in words": (told(r="2"), ("r is '2'",)),
    "an alpha that is no number": (told(lora_alpha=float("nan")), ("lora_alpha is nan",)),
    "a rank that the file has not": (told(r=3), ("'q': expected rank 3", "received lora_A (2, 4)")),
    "a pattern of ranks that the file has not": (told(rank_pattern={"q": 1}), ("'q': expected rank 1",)),
    "no pattern": (told(alpha_pattern=["q"]), ("alpha_pattern is ['q'], an object is needed",)),
    "parameters that are no list": (told(target_parameters=5), ("target_parameters is 5, a list of names",)),
    "parameters that are one name": (told(target_parameters="q"), ("target_parameters is 'q', a list of names",)),
    "modules that are no list": (told(modules_to_save={"q": 1}), ("modules_to_save is {'q': 1}, a list of names",)),
    "B of too many rows": (held(lambda one: one | {B: torch.ones(9, 2)}), ("'q'", "(9, 2)", "q.weight")),
    "A of too many columns": (held(lambda one: one | {A: torch.ones(2, 5)}), ("'q'", "(2, 5)", "q.weight")),
    "A turned": (held(lambda one: one | {A: torch.ones(HIDDEN, 2)}), ("'q'", "(4, 2)")),
    "no B": (held(lambda one: {A: one[A]}), ("'q' has lora_A alone",)),
    "not a number": (held(lambda one: one | {B: one[B] * torch.nan}), ("'q'", "not a number")),
    "infinite": (held(lambda one: one | {A: one[A] + torch.inf}), ("'q'", "infinite")),
    "whole numbers": (held(lambda one: {key: tensor.to(torch.int8) for key, tensor in one.items()}), ("int8",)),
    "DoRA": (told(use_dora=True), ("use_dora=True",)),
    "DoRA that the configuration hides": (
        held(lambda one: one | {"base_model.model.q.lora_magnitude_vector": torch.ones(8)}),
        ("q.lora_magnitude_vector (8,)",),
    ),
    "trained biases": (told(bias="lora_only"), ("bias='lora_only'",)),
    "biases that the configuration hides": (
        held(lambda one: one | {"base_model.model.q.base_layer.bias": torch.ones(8)}),
        ("q.base_layer.bias (8,)", "no weight that the base model has"),
    ),
    "a bias of B": (told(lora_bias=True), ("lora_bias=True",)),
    "tokens": (told(trainable_token_indices=[1]), ("trainable_token_indices=[1]",)),
    "KaSA": (told(kasa_config={"beta": 0.1}), ("kasa_config=",)),
    "a module saved whole that is not a number": (
        held(lambda one: one | {"base_model.model.block.gate.weight": torch.full((3, HIDDEN), torch.nan)}),
        ("block.gate.weight", "not a number"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_directory_is_one_clear_error_and_changes_nothing(what: str, tmp_path: Path) -> None:
    spoil, said = BAD[what]
    good, bad = (made(tmp_path / name, target_modules=["q"], use_rslora=True, r=2) for name in ("good", "bad"))
    spoil(bad / "adapter")
    model = loaded(good / "base")
    manager = LoRAManager(model, LoRAConfig(max_loras=2, max_lora_rank=4), checkpoint=maps(good / "base")[0])
    manager.add(1, good / "adapter")
    manager.activate(1)
    manager.map_tokens([1, None] * (IDS // 2) + [1])
    before = manager.registered, manager.slots, model(TOKENS)
    with pytest.raises(LoRAError) as caught:
        manager.add(2, bad / "adapter")
    assert not [words for words in said if words not in str(caught.value)], str(caught.value)
    assert "\n" not in str(caught.value)
    assert (manager.registered, manager.slots) == before[:2]
    assert torch.equal(model(TOKENS), before[2])
