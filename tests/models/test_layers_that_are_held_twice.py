"""Layers that a model holds by several names are read by each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from conformance.implementations.models import HELD, OUTPUT
from conformance.implementations.vllm.models.aliases import other_names
from conformance.subjects.models.likeness import passed_over


class Attention:
    """A plain object that was handed a layer."""

    __module__ = "vllm.attention"

    def __init__(self, layer: nn.Module) -> None:
        self.kv_b_proj = layer


class Block(nn.Module):
    """Hands one layer to a submodule, and one to a plain object."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.kv_b_proj, self.experts = nn.Linear(1, 1), nn.Linear(1, 1), nn.Module()
        self.experts.gate = self.gate
        self.impl = Attention(self.kv_b_proj)


def is_linear(module: Any) -> bool:
    return isinstance(module, nn.Linear)


def test_the_other_names_of_a_layer_are_those_of_modules_and_of_objects_that_hold_it() -> None:
    block = nn.ModuleDict({"mlp": Block()})
    assert other_names(block, is_linear) == {"mlp.gate": ["mlp.experts.gate"], "mlp.kv_b_proj": ["mlp.impl.kv_b_proj"]}


def test_a_layer_that_is_right_by_one_name_alone_is_passed_over() -> None:
    base, adapted = torch.tensor([1.0]), torch.tensor([2.0])
    assert passed_over({"gate": {OUTPUT: adapted, f"{HELD}experts.gate": base}})
    assert not passed_over({"gate": {OUTPUT: adapted, f"{HELD}experts.gate": adapted}})
