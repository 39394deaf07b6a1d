"""What the suite asks of an implementation that serves a mixture of experts; `lora_compat` is the first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

import lora_compat
from conformance.engines.ranks import RankGroup
from lora_compat.adapters import LoRAConfig
from lora_compat.expert_parts import ExpertsAdapter
from lora_compat.kernels import TokenBatch
from strategies.experts import ExpertsCase


@dataclass(frozen=True, slots=True, eq=False)
class ExpertWeights:
    """One expert's checkpoint tensors: gate and up ``[intermediate, hidden]``, down ``[hidden, intermediate]``.

    The layer lives on their device.
    """

    gate: Tensor
    up: Tensor
    down: Tensor

    def to(self, device: str) -> ExpertWeights:
        """The same on ``device``."""
        return ExpertWeights(self.gate.to(device), self.up.to(device), self.down.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Routed:
    """The input: ``hidden [tokens, hidden]``, and for each token its experts and their weights."""

    hidden: Tensor
    ids: Tensor
    weights: Tensor

    def to(self, device: str) -> Routed:
        """The same on ``device``."""
        return Routed(self.hidden.to(device), self.ids.to(device), self.weights.to(device))


class ExpertsServer(ABC):
    """One rank's mixture with its adapters, driven by the suite."""

    @abstractmethod
    def bare(self, routed: Routed) -> Tensor:
        """The base layer's output ``[tokens, hidden]``."""

    @abstractmethod
    def load(self, slot: int, adapter: ExpertsAdapter) -> None:
        """Loads an unsharded adapter into a slot."""

    @abstractmethod
    def reset(self, slot: int) -> None:
        """Empties a slot."""

    @abstractmethod
    def run(self, slots: tuple[int, ...], routed: Routed) -> Tensor:
        """The output with each token's adapter."""

    @abstractmethod
    def warmup_rank(self, *, default: int, max_lora_rank: int) -> int:
        """The dummy rank that a model of this layer alone is warmed up with."""

    @abstractmethod
    def load_dummy(self, slot: int, rank: int) -> None:
        """Loads the warm-up's dummy adapter into a slot."""


class ReferenceExperts(ExpertsServer):
    """`lora_compat.FusedMoE` and `lora_compat.LoRAExperts`."""

    def __init__(self, case: ExpertsCase, weights: tuple[ExpertWeights, ...], group: RankGroup) -> None:
        with lora_compat.tensor_parallel(group):
            self._layer = lora_compat.FusedMoE(
                case.experts,
                case.top_k,
                case.hidden_size,
                case.intermediate_size,
                torch.float32,
                "relu",
                expert_parallel=case.expert_parallel,
            )
        for index, one in enumerate(weights):
            for name, shard, tensor in (("w13", "w1", one.gate), ("w13", "w3", one.up), ("w2", "w2", one.down)):
                self._layer.weight_loader(getattr(self._layer, f"{name}_weight"), tensor.float(), shard, index)
        self._layer.to(weights[0].gate.device)
        self._config = LoRAConfig(case.max_loras, case.max_rank, case.fully_sharded)

    @property
    def wrapped(self) -> lora_compat.LoRAExperts:
        """The LoRA layer; one for the layer, however often it is asked for."""
        self._wrapped = lora_compat.wrap_experts(self._layer, self._config)
        return self._wrapped

    def bare(self, routed: Routed) -> Tensor:
        output: Tensor = self._layer(routed.hidden, routed.weights, routed.ids)
        return output

    def load(self, slot: int, adapter: ExpertsAdapter) -> None:
        self.wrapped.set_lora(slot, adapter)

    def reset(self, slot: int) -> None:
        self.wrapped.reset_lora(slot)

    def run(self, slots: tuple[int, ...], routed: Routed) -> Tensor:
        self.wrapped.set_batch(TokenBatch.of(slots, routed.hidden.device))
        output: Tensor = self.wrapped(routed.hidden, routed.weights, routed.ids)
        return output

    def warmup_rank(self, *, default: int, max_lora_rank: int) -> int:
        return lora_compat.warmup_rank_of(self.wrapped, max_lora_rank=max_lora_rank, default=default)

    def load_dummy(self, slot: int, rank: int) -> None:
        self.wrapped.set_lora(slot, lora_compat.dummy_experts(self.wrapped, rank))
