"""The model that the checkpoint of `loaders` is of, as those who train it have it, and what PEFT makes of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_compat.checkpoint_map import CheckpointMap, added, load_factors
from tests.checkpoint_map.loaders import EXPERTS, HIDDEN, INNER, SHAPES, VOCABULARY, Model

LINEAR = ("q", "k", "v", "gate_up", "down", "router", "square", "embed", "up")
Pairs = Mapping[str, tuple[Tensor, Tensor]]


class Experts(nn.Module):
    """Up projections as linear layers, down projections as one parameter."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.is_transposed = transposed  # PEFT asks for it
        for number in range(EXPERTS):
            self.add_module(str(number), nn.ModuleDict({"up": nn.Linear(HIDDEN, INNER, bias=False)}))
        self.down = nn.Parameter(torch.zeros(EXPERTS, INNER, HIDDEN))


class Source(nn.Module):
    """Its parameters are the tensors of the checkpoint."""

    def __init__(self, *, transposed: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, bias=False)
        self.attn = nn.ModuleDict(
            {"q": nn.Linear(HIDDEN, 8), "k": nn.Linear(HIDDEN, 4, bias=False), "v": nn.Linear(HIDDEN, 4, bias=False)}
        )
        self.mlp = nn.ModuleDict(
            {"gate_up": nn.Linear(HIDDEN, 2 * INNER, bias=False), "down": nn.Linear(INNER, HIDDEN, bias=False)}
        )
        self.router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.square = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.experts = Experts(transposed=transposed)
        self.unused = nn.Linear(3, 3, bias=False)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randint(-8, 9, parameter.shape, generator=generator).float()

    def forward(self, x: Tensor) -> Tensor:
        return x


def made_by_peft(directory: Path, *, transposed: bool = False, **options: Any) -> tuple[Mapping[str, Tensor], ...]:
    """An adapter directory; the checkpoint without it and the one that PEFT merges it into."""
    source = Source(transposed=transposed)
    base = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model  # three seconds

        wrapped: Any = get_peft_model(source, LoraConfig(**{"r": 2, "lora_alpha": 4, **options}))
    wrapped.create_or_update_model_card = lambda output_dir: None  # a third of the time
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()
    wrapped.save_pretrained(directory)
    merged = wrapped.merge_and_unload().state_dict()
    assert base.keys() == merged.keys() == SHAPES.keys()
    return base, merged


def differences(
    found: CheckpointMap,
    directory: Path,
    checkpoints: Sequence[Mapping[str, Tensor]],
    model: Model,
    ranks: Sequence[CheckpointMap] = (),
) -> list[str]:
    """The parameters for which base + adapter is not what the model's loader makes of the merged checkpoint."""
    given = load_factors(directory, found, ranks=ranks).factors
    model.load_weights(checkpoints[0].items())
    before = {name: one.clone() for name, one in model.named_parameters()}
    model.load_weights(checkpoints[1].items())
    right = dict(model.named_parameters())
    return [
        name
        for name, one in before.items()
        if not torch.equal(one.double() + added(tuple(one.shape), given.get(name, ())), right[name].double())
    ]


def written(directory: Path, pairs: Pairs, *, rank: int = 2, **config: Any) -> Path:
    """An adapter directory with these pairs, by module; an embedding's module ends in ``*``."""
    tensors = {}
    for module, both in pairs.items():
        name = module.removesuffix("*")
        for letter, tensor in zip("AB", both, strict=True):
            kind = f"lora_embedding_{letter}" if module.endswith("*") else f"lora_{letter}.weight"
            tensors[f"base_model.model.{name}.{kind}"] = tensor.contiguous()
    save_file(tensors, directory / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, **config}
    (directory / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def pair(rows: int, columns: int, rank: int = 2) -> tuple[Tensor, Tensor]:
    """A ``[rank, columns]`` and B ``[rows, rank]`` of small whole numbers."""
    generator = torch.Generator().manual_seed(rows)
    a, b = (torch.randint(-2, 3, shape, generator=generator).float() for shape in ((rank, columns), (rows, rank)))
    return a, b
