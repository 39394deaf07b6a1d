"""Layers of other kinds in a program's model, as the implementation's servers of their families make and call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.values.companions import CompanionValues
from conformance.values.experts import ExpertsTensors
from conformance.values.vocabulary import given_of
from strategies.experts import ExpertsCase


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
    server = implementation.vocabulary(case, tensors.weights.to(device), group)
    return CompanionServer(values, server, given_of(case, tensors).to(device))
