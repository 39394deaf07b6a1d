"""torch's own linear layer, and drawn subclasses of it, as base layers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.protocol import LayerLibrary
from strategies.cases import Quantization
from strategies.libraries import Library


class TorchLayers(LayerLibrary):
    """`torch.nn.Linear`: one rank, a parameter that is loaded by being copied to, nothing to finish."""

    library = Library.TORCH
    bases = (nn.Linear, nn.Embedding)

    def identity(self) -> str:
        return f"torch {version('torch')}"

    def prepare(self) -> None:
        pass

    def ranked(self, group: RankGroup) -> AbstractContextManager[object]:
        return nullcontext()

    def build(self, cls: type[nn.Module], arguments: Mapping[str, object], quantization: Quantization) -> nn.Module:
        return cls(**arguments).eval()

    def load(self, layer: nn.Module, name: str, loaded: Tensor, *shard: int | str) -> None:
        layer.get_parameter(name).data.copy_(loaded)

    def finish(self, layer: nn.Module) -> None:
        pass
