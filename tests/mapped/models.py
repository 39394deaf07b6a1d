"""A model whose loader moves what it loads in every way, the same as those who train it have it, and its adapters."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import lora_compat
from conformance.engines.ranks import RankGroup
from lora_compat.checkpoint_map import CheckpointMap, shapes_in

HIDDEN, INNER, EXPERTS, IDS = 4, 6, 3, 7
HEADS, KV_HEADS, HEAD = 4, 2, 2
Q = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])  # the rows of q within the packed layer, as for rotary embeddings


class Block(nn.Module):
    """Two routers: one that is a plain linear layer, and one that is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.router = nn.Parameter(torch.zeros(EXPERTS, HIDDEN))
        self.experts = lora_compat.FusedMoE(EXPERTS, 2, HIDDEN, INNER, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x) + functional.linear(x, self.router)
        order = scores.argsort(dim=-1, stable=True)[:, :2]
        return self.experts(x, torch.ones(order.shape), order) + scores.sum(-1, keepdim=True)


class Served(nn.Module):
    """One rank, of whatever group is current."""

    def __init__(self, *, tied: bool = True, one_module: bool = False) -> None:
        super().__init__()
        self.embed = lora_compat.VocabParallelEmbedding(IDS, HIDDEN, padding_size=16)
        self.positions = nn.Embedding(IDS, HIDDEN)
        self.norm = nn.Parameter(torch.zeros(HIDDEN))
        self.qkv = lora_compat.QKVParallelLinear(HIDDEN, HEAD, HEADS, KV_HEADS, bias=False, return_bias=False)
        self.o = lora_compat.RowParallelLinear(HEADS * HEAD, HIDDEN, bias=False, return_bias=False)
        self.gate_up = lora_compat.MergedColumnParallelLinear(HIDDEN, [INNER, INNER], bias=False, return_bias=False)
        self.down = lora_compat.RowParallelLinear(INNER, HIDDEN, bias=False, return_bias=False)
        self.twice = lora_compat.ReplicatedLinear(HIDDEN, HIDDEN, bias=False, return_bias=False)
        self.block = Block()
        self.head = self.embed if one_module else lora_compat.ParallelLMHead(IDS, HIDDEN, padding_size=16)
        if one_module:
            self.head.bias = None  # which an embedding has none of, and the logits are asked for
        if tied:
            self.head.weight = self.embed.weight
        self.logits = lora_compat.LogitsProcessor(IDS)
        self.requires_grad_(False)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            self._load(name.removesuffix(".weight").split("."), tensor)

    def _load(self, name: Sequence[str], tensor: Tensor) -> None:
        match name:
            case ("q",):
                self.qkv.weight_loader(self.qkv.weight, tensor[Q], "q")
            case ("k" | "v" as which,):
                self.qkv.weight_loader(self.qkv.weight, tensor, which)
            case ("gate_up",):  # alternating in the checkpoint
                for shard in range(2):
                    self.gate_up.weight_loader(self.gate_up.weight, tensor[shard::2], shard)
            case ("short",):
                self.twice.weight.data.copy_(tensor.repeat(2, 1))
            case ("positions",):
                self.positions.weight.data.copy_(tensor)
            case ("norm",):
                self.norm.data.copy_(tensor + 1)
            case ("block", "experts", number, projection):
                shard = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}[projection]
                experts = self.block.experts
                weight = experts.w2_weight if shard == "w2" else experts.w13_weight
                experts.weight_loader(weight, tensor, shard, int(number))
            case ("block", which):
                parameter = self.block.router if which == "router" else self.block.gate.weight
                parameter.data.copy_(tensor)
            case (which,) if hasattr(self, which):
                module = getattr(self, which)
                module.weight_loader(module.weight, tensor)

    def forward(self, ids: Tensor) -> Tensor:
        x = (self.embed(ids) + self.positions(ids)) * self.norm
        q, k, v = self.qkv(x).split([self.qkv.num_heads * HEAD, *[self.qkv.num_kv_heads * HEAD] * 2], dim=-1)
        shared = (k - v).unflatten(-1, (-1, HEAD)).repeat_interleave(HEADS // KV_HEADS, dim=1).flatten(1)
        x = x + self.o(q + shared)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        x = x + self.down(functional.relu(gate) + up) + self.twice(x)
        return self.logits(self.head, self.block(x))


class Stacks(nn.Module):
    """All experts in two parameters, as transformers has them in memory where the files have each expert's own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(EXPERTS, 2 * INNER, HIDDEN))
        self.down_proj = nn.Parameter(torch.zeros(EXPERTS, HIDDEN, INNER))


class Trained(nn.Module):
    """The same to those who train it; its parameters are the tensors of the checkpoint."""

    def __init__(self, *, tied: bool = True, fused: bool = False) -> None:
        super().__init__()

        def linear(rows: int, columns: int) -> nn.Linear:
            return nn.Linear(columns, rows, bias=False)

        self.embed, self.positions = nn.Embedding(IDS, HIDDEN), nn.Embedding(IDS, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, bias=False)
        self.q, self.k, self.v = (linear(HEAD * heads, HIDDEN) for heads in (HEADS, KV_HEADS, KV_HEADS))
        self.o, self.down = linear(HIDDEN, HEADS * HEAD), linear(HIDDEN, INNER)
        self.gate_up, self.short = linear(2 * INNER, HIDDEN), linear(HIDDEN // 2, HIDDEN)
        self.block = nn.Module()
        self.block.gate, self.block.router = linear(EXPERTS, HIDDEN), nn.Parameter(torch.zeros(EXPERTS, HIDDEN))
        shapes = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
        self.block.experts = nn.ModuleList(
            nn.ModuleDict({name: linear(*shape) for name, shape in shapes.items()}) for _ in range(EXPERTS)
        )
        if fused:
            self.block.experts = Stacks()
        if not tied:
            self.head = linear(IDS, HIDDEN)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()

    def forward(self, x: Tensor) -> Tensor:
        return x


def made(directory: Path, *, tied: bool = True, fused: bool = False, seed: int = 1, **options: Any) -> Path:
    """``base/``, ``adapter/`` and ``merged/`` in a directory, as PEFT makes them."""
    trained: Any = Trained(tied=tied, fused=fused)
    save(trained, directory / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model  # three seconds

        wrapped: Any = get_peft_model(trained, LoraConfig(**{"r": 2, "lora_alpha": 4, **options}))
    wrapped.create_or_update_model_card = lambda output_dir: None  # a third of the time
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randint(-1, 2, parameter.shape, generator=generator).float()
    wrapped.save_pretrained(directory / "adapter")
    save(wrapped.merge_and_unload(), directory / "merged")
    return directory


def save(model: nn.Module, directory: Path) -> None:
    directory.mkdir(parents=True)
    save_file(dict(_apart(model.state_dict())), directory / "model.safetensors")


def _apart(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint, with experts each on their own."""
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        if last not in ("gate_up_proj", "down_proj"):
            yield name, tensor
            continue
        for expert, weight in enumerate(tensor):
            projections = ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",)
            for projection, part in zip(projections, weight.chunk(len(projections)), strict=True):
                yield f"{prefix}.{expert}.{projection}.weight", part.clone()


def loaded(directory: Path, **options: Any) -> Served:
    """The model of a checkpoint, in float64: sums of whole numbers are exact."""
    torch.set_default_dtype(torch.float64)
    try:
        model = Served(**options)
    finally:
        torch.set_default_dtype(torch.float32)
    model.load_weights(load_file(directory / "model.safetensors").items())
    return model


def maps(directory: Path, size: int = 1, **options: Any) -> list[CheckpointMap]:
    """Those of all ranks; each rank can learn them all."""
    found = []
    for one in range(size):
        group = RankGroup(one, size, lambda rank, issued, tensor: [tensor] * size)
        with lora_compat.tensor_parallel(group):
            found.append(CheckpointMap.of(loaded(directory, **options), shapes_in(directory)))
    return found
