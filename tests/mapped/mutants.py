"""Mistakes in serving a model by its map, each as what is patched, and an adapter on which it shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from lora_compat.checkpoint_map import Factor, adapter_loading
from lora_compat.checkpoint_map.expert_stacks import ExpertStack
from lora_compat.embeddings import InterceptedEmbedding
from lora_compat.mapped import layout, wrapping
from lora_compat.mapped.stacks import StackedWeights, TokenWise
from tests.mapped.models import EXPERTS

EXPERT = {"target_modules": [f"experts.{n}.{name}" for n in range(EXPERTS) for name in ("gate_proj", "up_proj")]}
FUSED = {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "fused": True}
WHOLE = {"target_modules": ["q"], "modules_to_save": ["block.gate"]}
QK = {"target_modules": ["q", "k"], "alpha_pattern": {"k": 8}}


@dataclass(frozen=True, slots=True)
class Planted:
    """What is patched, what it becomes, and the options of the adapter that shows it."""

    owner: Any
    attribute: str
    change: Callable[[Any], Any]
    options: dict[str, Any]


def _factors(change: Callable[[Factor], Factor]) -> Callable[[Any], Any]:
    """`joined` of other factors than it is handed."""
    return lambda joined: lambda factors, rows, columns: joined([change(one) for one in factors], rows, columns)


def _first_only(joined: Any) -> Any:
    return lambda factors, rows, columns: joined(factors[:1], rows, columns)


def _one_scaling(joined: Any) -> Any:
    return lambda factors, rows, columns: joined(
        [replace(one, scaling=factors[0].scaling) for one in factors], rows, columns
    )


def _without_experts(weight: Any) -> Any:
    """The first expert's weights alone are merged."""

    def merged(self: StackedWeights, attribute: str, slot: int) -> torch.Tensor:
        right = weight(self, attribute, slot)
        right[1:] = self.module._parameters[attribute][1:]
        return right

    return merged


def _other_order(deltas: Any) -> Any:
    return lambda self, delta: deltas(replace(self, members=tuple(members[::-1] for members in self.members)), delta)


def _left_merged(merged: Any) -> Any:
    def entered(self: StackedWeights, slot: int) -> Any:
        merged(self, slot).__enter__()
        return nullcontext()

    return entered


def _slots_in_order(call: Any) -> Any:
    """The rows of several adapters come back in the order of their slots."""

    def calling(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = self.weights.batch
        if not batch.active:
            return self.method(*args, **kwargs)
        rest = (batch.token_slots < 0).nonzero().flatten()
        plain = [self._part(None, rest, args, kwargs)] if len(rest) else []
        return torch.cat(plain + [self._part(slot, tokens, args, kwargs) for slot, tokens in batch.groups])

    return calling


def _halved(held_whole: Any) -> Any:
    """What a module that is saved whole adds is halved."""

    def half(*args: Any) -> Any:
        delta = held_whole(*args)
        return None if delta is None else replace(delta, scaling=0.5)

    return half


PLANTED: dict[str, Planted] = {
    "one tensor of a packed layer": Planted(layout, "joined", _first_only, QK),
    "one scaling for all tensors": Planted(layout, "joined", _one_scaling, QK),
    "twice repeated rows once": Planted(
        layout,
        "joined",
        _factors(lambda one: replace(one, lora_b=one.lora_b * (torch.arange(len(one.lora_b)) < 2)[:, None])),
        {"target_modules": ["short"]},
    ),
    "scaling dropped": Planted(layout, "joined", _factors(lambda one: replace(one, scaling=1.0)), QK),
    "embeddings' adapters multiply": Planted(
        wrapping, "Taker", lambda taker: lambda layer, attribute, looked_up=False: taker(layer, attribute, True),
        {"target_modules": ["o"]},
    ),
    "the first expert alone": Planted(StackedWeights, "weight", _without_experts, EXPERT),
    "experts never merged": Planted(StackedWeights, "merged", lambda merged: lambda self, slot: nullcontext(), EXPERT),
    "up and gate exchanged": Planted(ExpertStack, "deltas", _other_order, FUSED),
    "lookups without adapters": Planted(
        InterceptedEmbedding, "__call__", lambda call: lambda self, layer, rows: self.embedding(layer, rows),
        {"target_modules": ["embed"]},
    ),
    "experts' rows in the order of slots": Planted(TokenWise, "__call__", _slots_in_order, EXPERT),
    "half of a module saved whole": Planted(adapter_loading, "held_whole", _halved, WHOLE),
    "a module saved whole is passed over": Planted(
        adapter_loading, "held_whole", lambda held_whole: lambda *args: None, WHOLE
    ),
    "experts that stay merged": Planted(StackedWeights, "merged", _left_merged, EXPERT),
}  # fmt: skip
