"""From a model's description to a built tree on one rank: its layers, and the modules that cannot carry LoRA."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.protocol import LayerLibrary
from conformance.subjects.building import build_layer, load_weights
from conformance.values.programs import ProgramValues
from strategies.cases import Case
from strategies.trees import ModuleKind


class Lookalike(torch.nn.Module):
    """Has the attributes of a linear layer, and derives from none."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = self.output_size = 3
        self.tp_rank, self.tp_size, self.output_partition_sizes = 0, 1, [3]
        self.weight = torch.nn.Parameter(torch.ones(3, 3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight)


# Modules that cannot carry LoRA, as a test file writes them; they take ``[tokens, 3]``, or indices below 3.
OTHER_WIDTH = 3
OTHERS = {
    ModuleKind.NN_LINEAR: "torch.nn.Linear(3, 3)",
    ModuleKind.EMBEDDING: "torch.nn.Embedding(3, 3)",
    ModuleKind.NORM: "torch.nn.LayerNorm(3)",
    ModuleKind.LOOKALIKE: "Lookalike()",
    ModuleKind.HOLDER: "torch.nn.Sequential(torch.nn.LayerNorm(3))",
}
STRANGERS = (
    *(OTHERS[kind] for kind in (ModuleKind.LOOKALIKE, ModuleKind.NN_LINEAR, ModuleKind.EMBEDDING, ModuleKind.NORM)),
    "torch.nn.Identity()",
)


def made(text: str) -> nn.Module:
    """The module that is written so."""
    module: nn.Module = eval(text)
    return module


def hollow(library: LayerLibrary) -> nn.Module:
    """A layer that has neither a weight nor a quant method."""
    layer = build_layer(Case(), library, torch.float32)
    for name in ("weight", "quant_method"):
        setattr(layer, name, None)
    return layer


class ModelTree(nn.Module):
    """The root: modules hang under dotted names, in the order they are given."""

    def hang(self, name: str, module: nn.Module) -> None:
        """Adds ``module``, and what it needs above it."""
        *above, last = name.split(".")
        owner: nn.Module = self
        for part in above:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(last, module)


def build_tree(
    values: ProgramValues, library: LayerLibrary, group: RankGroup, others: Mapping[str, nn.Module] | None = None
) -> ModelTree:
    """This rank's model, built and loaded; it is not wrapped yet. A walk meets ``others`` first."""
    model = ModelTree()
    for name, other in (others or {}).items():
        model.hang(name, other)
    linears = iter(zip(values.cases, values.tensors, strict=True))
    for module in values.program.model.modules:
        if module.kind is ModuleKind.LINEAR:
            case, tensors = next(linears)
            with library.ranked(group):
                built = build_layer(case, library, torch_dtype(case.dtype))
                load_weights(case, library, built, tensors.weights, tensors.biases)
                library.finish(built)
        else:
            with library.ranked(group):
                built = hollow(library) if module.kind is ModuleKind.HOLLOW else made(OTHERS[module.kind])
        for name in module.names:
            model.hang(name, built)
    return model.requires_grad_(False)
