"""A bad adapter is one clear error, and leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_compat import LoRAError
from tests.manager.models import WIDTH, adapter, directory, managed

PREFIX = "base_model.model.attn.q_proj.lora_"
PAIR = {f"{PREFIX}A.weight": torch.ones(2, WIDTH), f"{PREFIX}B.weight": torch.ones(4, 2)}
TOO_LARGE = {f"{PREFIX}A.weight": torch.ones(5, WIDTH), f"{PREFIX}B.weight": torch.ones(4, 5)}


def truncated(path: Path) -> Path:
    file = directory(path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    return path


def without_weights(path: Path) -> Path:
    (directory(path) / "adapter_model.safetensors").unlink()
    return path


def no_json(path: Path) -> Path:
    (directory(path) / "adapter_config.json").write_text("{")
    return path


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def a_file(path: Path) -> Path:
    path.write_text("not an adapter")
    return path


BAD: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "truncated weights": (truncated, ("adapter_model.safetensors", "cut short")),
    "no weights": (without_weights, ("has no adapter_model.safetensors",)),
    "no path": (lambda path: path, ("no such directory",)),
    "a file": (a_file, ("a file", "adapter_config.json")),
    "an empty directory": (empty, ("has no adapter_config.json", "no PEFT adapter")),
    "a broken config": (no_json, ("not JSON",)),
    "no rank": (lambda path: directory(path, r=None), ("lacks 'r'",)),
    "no alpha": (lambda path: directory(path, lora_alpha=None), ("lacks 'lora_alpha'",)),
    "rank zero": (lambda path: directory(path, r=0), ("r is 0",)),
    "another method": (lambda path: directory(path, peft_type="IA3"), ("'IA3'", "'LORA'")),
    "trained biases": (lambda path: directory(path, bias="all"), ("bias='all'",)),
    "DoRA": (lambda path: directory(path, use_dora=True), ("use_dora=True",)),
    "modules to save": (lambda path: directory(path, modules_to_save=["head"]), ("modules_to_save=['head']",)),
    "PiSSA": (lambda path: directory(path, init_lora_weights="pissa"), ("init_lora_weights='pissa'",)),
    "a pattern that is none": (lambda path: directory(path, rank_pattern={"(": 1}), ("rank_pattern", "'('")),
    "another rank than promised": (
        lambda path: directory(path, rank_pattern={"q_proj": 3}),
        ("attn.q_proj", "expected rank 3", "received lora_A (2, 4)"),
    ),
    "half a pair": (
        lambda path: directory(path, {f"{PREFIX}A.weight": torch.ones(2, WIDTH)}),
        ("attn.q_proj", "lora_A alone"),
    ),
    "an unknown tensor": (
        lambda path: directory(path, PAIR | {"base_model.model.head.weight": torch.ones(4, 4)}),
        ("base_model.model.head.weight (4, 4)", ".lora_A.weight"),
    ),
    "not a number": (
        lambda path: directory(path, PAIR | {f"{PREFIX}B.weight": torch.full((4, 2), torch.nan)}),
        ("attn.q_proj", "not a number"),
    ),
    "rank above the largest": (
        lambda path: directory(path, TOO_LARGE, r=5),
        ("attn.qkv_proj", "max_lora_rank=4", "received 5"),
    ),
    "an unknown module": (
        lambda path: directory(path, {name.replace("q_proj", "z_proj"): t for name, t in PAIR.items()}),
        ("attn.z_proj", "attn.q_proj"),
    ),
    "no tensors": (lambda path: directory(path, {}), ("no LoRA tensors",)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_directory_is_one_clear_error_and_changes_nothing(what: str, tmp_path: Path) -> None:
    make, said = BAD[what]
    model, manager = managed(max_adapters=2)
    for number in (1, 2):
        manager.add(number, adapter("attn.q_proj", seed=number))
    manager.activate(1)
    manager.map_tokens([1, None])
    x = torch.eye(WIDTH)[:2]
    before = manager.registered, manager.active, manager.slots, model.outputs(x)
    with pytest.raises(LoRAError) as caught:
        manager.add(3, make(tmp_path / "adapter"))
    for words in said:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (manager.registered, manager.active, manager.slots) == before[:3]
    assert all(torch.equal(output, before[3][name]) for name, output in model.outputs(x).items())
