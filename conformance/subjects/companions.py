"""Layers of other kinds in a program's model, as the implementation's servers of their families make and call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from conformance.values.companions import CompanionValues
from conformance.values.experts import ExpertsTensors
from strategies.experts import ExpertsCase
from strategies.vocabulary import VocabularyLayer


@dataclass(frozen=True, slots=True)
class CompanionServer:
    """One companion on one rank; ``server`` has its ``layer``, and calls what took its place ``through``."""

    values: CompanionValues
    server: Any
    given: Any

    def run(self, model: nn.Module) -> Tensor:
        """What the module of its name gives, in memory of its own."""
        result: Tensor = self.server.through(model.get_submodule(self.values.name), self.given)
        return result.detach().to("cpu", copy=True)


def companion_on(implementation: Any, values: CompanionValues, group: RankGroup, device: str) -> CompanionServer:
    """The companion, built and loaded on this rank."""
    case, tensors = values.case, values.tensors
    if isinstance(tensors, ExpertsTensors):
        tensors = tensors.to(device)
        return CompanionServer(values, implementation.experts(case, tensors.weights, group), tensors.routed)
    assert not isinstance(case, ExpertsCase)
    embeds = case.layer is VocabularyLayer.EMBEDDING
    given = torch.tensor(case.ids, dtype=torch.int64) if embeds else tensors.hidden.to(torch_dtype(case.dtype))
    server = implementation.vocabulary(case, tensors.weights.to(device), group)
    return CompanionServer(values, server, given.to(device))
