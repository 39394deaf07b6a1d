"""Experts stacked in two parameters, as transformers has them, with PEFT's LoRA on parameters."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from conformance.implementations.experts import ExpertsServer, ExpertWeights, Routed
from conformance.implementations.peft.hosting import LAYER, Host, ModelOfOne, lora_config, slot_name
from lora_compat.adapters import SubAdapter
from lora_compat.expert_parts import ExpertAdapter, ExpertsAdapter

_PARAMETERS = ("gate_up_proj", "down_proj")
_TARGETS: dict[str, Any] = {"target_modules": [], "target_parameters": [f"{LAYER}.{name}" for name in _PARAMETERS]}


class StackedExperts(nn.Module):
    """``gate_up_proj [experts, 2 * intermediate, hidden]`` and ``down_proj [experts, hidden, intermediate]``."""

    def __init__(self, weights: tuple[ExpertWeights, ...]) -> None:
        super().__init__()
        gate_up = torch.stack([torch.cat([one.gate, one.up]) for one in weights])
        self.gate_up_proj = nn.Parameter(gate_up.float())
        self.down_proj = nn.Parameter(torch.stack([one.down for one in weights]).float())

    def forward(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        gate, up = torch.einsum("th,toih->toi", hidden, self.gate_up_proj[ids]).chunk(2, dim=-1)
        down = torch.einsum("toi,tohi->toh", torch.relu(gate) * up, self.down_proj[ids])
        return (down * weights[..., None]).sum(1)


class PeftExperts(ExpertsServer):
    """A mixture in a PEFT model; all tokens of a batch have one adapter, as PEFT mixes none on parameters."""

    def __init__(self, weights: tuple[ExpertWeights, ...]) -> None:
        self._layer = StackedExperts(weights).requires_grad_(False)
        self._host: Host | None = None

    def bare(self, routed: Routed) -> Tensor:
        output: Tensor = self._layer(routed.hidden, routed.ids, routed.weights)
        return output

    def load(self, slot: int, adapter: ExpertsAdapter) -> None:
        if self._host is None:
            self._host = Host(ModelOfOne(self._layer), **_TARGETS)
        gate_up, down = (self._stacked(adapter, name) for name in _PARAMETERS)
        ranks = {
            name: len(a) // len(adapter.experts) for name, (a, _) in zip(_PARAMETERS, (gate_up, down), strict=True)
        }
        keys = {re.escape(f"{LAYER}.{name}"): rank for name, rank in ranks.items()}
        alphas = {key: rank * adapter.scaling for key, rank in keys.items()}
        config = lora_config(1, 1.0, rank_pattern=keys, alpha_pattern=alphas, **_TARGETS)
        tensors: dict[str, Tensor] = {}
        for name, (lora_a, lora_b) in zip(_PARAMETERS, (gate_up, down), strict=True):
            place = self._places()[name]
            tensors |= {f"{place}.lora_A.weight": lora_a, f"{place}.lora_B.weight": lora_b}
        self._host.add(slot_name(slot), config, tensors)

    def _places(self) -> dict[str, str]:
        """Where the wrapper of each parameter is: PEFT nests them."""
        assert self._host is not None
        return {layer.parameter_name: name for name, layer in self._host.layers().items()}

    def _stacked(self, adapter: ExpertsAdapter, parameter: str) -> tuple[Tensor, Tensor]:
        """A ``[experts * rank, in]``, expert by expert, and B ``[out, rank * experts]``, experts side by side."""
        rows, columns = self._layer.get_parameter(parameter).shape[1:]
        pairs = [_pair(one, parameter, rows) for one in adapter.experts]
        rank = max((len(a) for a, _ in filter(None, pairs)), default=1)
        lora_a, lora_b = torch.zeros(len(pairs), rank, columns), torch.zeros(rows, rank, len(pairs))
        for index, pair in enumerate(pairs):
            if pair is not None:
                a, b = pair
                lora_a[index, : len(a)], lora_b[:, : len(a), index] = a, b
        return lora_a.reshape(-1, columns), lora_b.reshape(rows, -1)

    def reset(self, slot: int) -> None:
        assert self._host is not None
        self._host.delete(slot_name(slot))

    def run(self, slots: tuple[int, ...], routed: Routed) -> Tensor:
        assert self._host is not None
        self._host.select([slot_name(slot) for slot in slots])
        output: Tensor = self._host.call(routed.hidden, routed.ids, routed.weights)
        return output

    def warmup_rank(self, *, default: int, max_lora_rank: int) -> int:
        raise NotImplementedError("PEFT is not warmed up")

    def load_dummy(self, slot: int, rank: int) -> None:
        raise NotImplementedError("PEFT is not warmed up")


def _pair(expert: ExpertAdapter | None, parameter: str, rows: int) -> tuple[Tensor, Tensor] | None:
    """One expert's A and B of a parameter; gate and up apart share its rank, each in rows of its own."""
    if expert is None:
        return None
    if parameter == "down_proj":
        return None if expert.down is None else (expert.down.lora_a, expert.down.lora_b)
    present: list[tuple[int, SubAdapter]] = [(i, one) for i, one in enumerate(expert.gate_up) if one is not None]
    if not present:
        return None
    lora_a = torch.cat([one.lora_a for _, one in present])
    lora_b, column = torch.zeros(rows, len(lora_a)), 0
    for index, one in present:
        start = index * (rows // 2) if len(expert.gate_up) == 2 else 0
        lora_b[start : start + len(one.lora_b), column : column + one.rank] = one.lora_b
        column += one.rank
    return lora_a, lora_b
