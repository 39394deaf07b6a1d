"""From a model's description to a built tree on one rank: its layers, and the modules that cannot carry LoRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.protocol import LayerLibrary
from conformance.subjects.building import build_layer, load_weights
from conformance.values.programs import ProgramValues
from strategies.cases import Case
from strategies.trees import ModuleKind


class Lookalike(nn.Module):
    """Has the attributes of a linear layer, and derives from none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_size = self.output_size = width
        self.tp_rank, self.tp_size = 0, 1
        self.output_partition_sizes = [width]
        self.weight = nn.Parameter(torch.ones(width, width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


OTHER_WIDTH = 3


def other_module(kind: ModuleKind, library: LayerLibrary) -> nn.Module:
    """A module that cannot carry LoRA; all but the hollow one take ``[tokens, 3]``, or indices below 3."""
    if kind is ModuleKind.HOLLOW:
        hollow = build_layer(Case(), library, torch.float32)
        for name in ("weight", "quant_method"):
            setattr(hollow, name, None)
        return hollow
    if kind is ModuleKind.HOLDER:
        return nn.Sequential(nn.LayerNorm(OTHER_WIDTH))
    if kind is ModuleKind.NN_LINEAR:
        return nn.Linear(OTHER_WIDTH, OTHER_WIDTH)
    if kind is ModuleKind.EMBEDDING:
        return nn.Embedding(OTHER_WIDTH, OTHER_WIDTH)
    return nn.LayerNorm(OTHER_WIDTH) if kind is ModuleKind.NORM else Lookalike(OTHER_WIDTH)


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


def build_tree(values: ProgramValues, library: LayerLibrary, group: RankGroup) -> ModelTree:
    """This rank's model, built and loaded; it is not wrapped yet."""
    model = ModelTree()
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
                built = other_module(module.kind, library)
        for name in module.names:
            model.hang(name, built)
    return model.requires_grad_(False)
