"""A small model whose loader moves its checkpoint as real ones do: fused, cut by rank, interleaved, stacked, tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lora_compat.checkpoint_map import CheckpointMap, TensorInfo

HIDDEN, INNER, EXPERTS, VOCABULARY = 6, 10, 3, 9


def info(*shape: int, dtype: torch.dtype = torch.bfloat16) -> TensorInfo:
    return TensorInfo(shape, dtype)


SHAPES: dict[str, TensorInfo] = {
    "embed.weight": info(VOCABULARY, HIDDEN),
    "norm.weight": info(HIDDEN),
    "attn.q.weight": info(8, HIDDEN),
    "attn.k.weight": info(4, HIDDEN),
    "attn.v.weight": info(4, HIDDEN),
    "attn.q.bias": info(8),
    "mlp.gate_up.weight": info(2 * INNER, HIDDEN),
    "mlp.down.weight": info(HIDDEN, INNER),
    "router.weight": info(EXPERTS, HIDDEN, dtype=torch.float32),
    "square.weight": info(HIDDEN, HIDDEN),
    **{f"experts.{n}.up.weight": info(INNER, HIDDEN) for n in range(EXPERTS)},
    "experts.down": info(EXPERTS, INNER, HIDDEN),
    "unused.weight": info(3, 3),
}


class Model(nn.Module):
    """One rank of ``ranks``; ``bug`` plants a mistake in the loader, by name."""

    def __init__(self, rank: int = 0, ranks: int = 1, dtype: torch.dtype = torch.bfloat16, bug: str = "") -> None:
        super().__init__()
        self.rank, self.ranks, self.bug = rank, ranks, bug

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)

        self.embed = parameter(VOCABULARY + 3, HIDDEN)  # three rows of padding
        self.head = parameter(VOCABULARY + 3, HIDDEN)  # tied
        self.norm = parameter(HIDDEN)
        self.qkv = parameter(16 // ranks, HIDDEN)
        self.bias = parameter(16 // ranks)
        self.gate_up = parameter(2 * INNER // ranks, HIDDEN)
        self.down = parameter(HIDDEN, INNER // ranks)
        self.router = nn.Parameter(torch.zeros(EXPERTS, HIDDEN), requires_grad=False)
        self.square = parameter(HIDDEN, HIDDEN)
        self.experts_up = parameter(EXPERTS, INNER // ranks, HIDDEN)
        self.experts_down = parameter(EXPERTS, HIDDEN, INNER // ranks)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            self.load(name, tensor)

    def load(self, name: str, tensor: Tensor) -> None:
        """One tensor."""
        bug, rank = self.bug, self.rank
        cut = lambda one, dim=0: one.chunk(self.ranks, dim)[0 if bug == "rank-0-everywhere" else rank]  # noqa: E731
        if name == "embed.weight":
            for index, one in enumerate((self.embed, self.head)):
                if index == 1 and bug == "head-not-tied":
                    continue
                one.data[:VOCABULARY] = tensor.flip(0) if bug == "rows-reversed" else tensor
                one.data[VOCABULARY:] = 0
        elif name == "norm.weight":
            self.norm.data.copy_(tensor + 1)  # Gemma's
        elif name.startswith("attn."):
            self._load_attention(name, tensor, cut)
        elif name == "mlp.gate_up.weight":
            gate, up = tensor.unflatten(0, (-1, 2)).unbind(1)  # alternating in the checkpoint
            if bug == "not-taken-apart":
                gate, up = tensor.chunk(2)
            self.gate_up.data.copy_(torch.cat([cut(up), cut(gate)] if bug == "gate-and-up" else [cut(gate), cut(up)]))
        elif name == "mlp.down.weight":
            part = cut(tensor, 1)
            self.down.data.copy_(part.roll(1, 1) if bug == "columns-rolled" else part)
        elif name == "router.weight":
            self.router.data.copy_(tensor * 2 if bug == "router-scaled" else tensor)
        elif name == "square.weight":
            self.square.data.copy_(tensor.t())
        elif name == "experts.down":
            self.experts_down.data.copy_(cut(tensor, 1).transpose(1, 2))
        elif name.startswith("experts."):
            number = int(name.split(".")[1])
            self.experts_up.data[EXPERTS - 1 - number if bug == "experts-reversed" else number] = cut(tensor)

    def _load_attention(self, name: str, tensor: Tensor, cut: object) -> None:
        bug, sizes = self.bug, [8 // self.ranks, 4 // self.ranks, 4 // self.ranks]
        target = self.bias if name.endswith("bias") else self.qkv
        index = "qkv".index(name.split(".")[1])
        start = sum(sizes[:index])
        if bug == "k-and-v-swapped" and index:
            start = sum(sizes[: 3 - index])
        part = cut(tensor)  # type: ignore[operator]
        if bug == "half-of-a-head" and index == 0:
            part = torch.cat([part[len(part) // 2 :], part[: len(part) // 2]])
        if bug == "v-takes-the-first-row" and index == 2:
            part = part[:1].expand_as(part)
        target.data[start : start + len(part)] = part


def learned(rank: int = 0, ranks: int = 1, dtype: torch.dtype = torch.bfloat16, bug: str = "") -> CheckpointMap:
    """The map of one rank."""
    model = Model(rank, ranks, dtype, bug)
    return CheckpointMap.of(model, SHAPES)


def checkpoint(seed: int = 0, shapes: Mapping[str, TensorInfo] = SHAPES) -> dict[str, Tensor]:
    """A checkpoint like any other."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(one.shape, generator=generator).to(one.dtype) for name, one in shapes.items()}
