"""What merged weights give: a case of a mixture of experts."""

from __future__ import annotations

import torch
from torch import Tensor

from conformance.implementations.experts import ExpertWeights
from conformance.values.experts import SCALING, ExpertsTensors
from lora_compat.expert_parts import ExpertAdapter
from strategies.experts import ExpertsCase


def merged(base: ExpertWeights, adapter: ExpertAdapter | None) -> ExpertWeights:
    """The expert's weights with ``s·B·A`` in them."""
    if adapter is None:
        return base
    both = torch.cat([base.gate, base.up])
    inner = base.gate.shape[0]
    for index, one in enumerate(adapter.gate_up):
        if one is not None:
            both[index * inner : index * inner + one.lora_b.shape[0]] += SCALING * (one.lora_b @ one.lora_a).double()
    down = base.down
    if adapter.down is not None:
        down = down + SCALING * (adapter.down.lora_b @ adapter.down.lora_a).double()
    return ExpertWeights(both[:inner], both[inner:], down)


def dense(case: ExpertsCase, tensors: ExpertsTensors, *, adapted: bool = True) -> Tensor:
    """What merged experts give, token by token, without any layer."""
    rows = []
    for token, adapter in enumerate(case.tokens):
        x = tensors.routed.hidden[token].double()
        total = torch.zeros(case.hidden_size, dtype=torch.float64)
        for expert, factor in zip(case.routing[token], tensors.routed.weights[token].double(), strict=True):
            own = tensors.adapters[adapter].experts[expert] if adapted and adapter >= 0 else None
            weights = merged(tensors.weights[expert], own)
            total = total + factor * (weights.down @ (torch.relu(weights.gate @ x) * (weights.up @ x)))
        rows.append(total)
    return torch.stack(rows) if rows else torch.zeros(0, case.hidden_size, dtype=torch.float64)
