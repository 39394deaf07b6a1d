"""SGLang's linear layers as base layers: every rank is a thread that the suite's engine runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.protocol import LayerLibrary
from conformance.implementations.quantization import ServedQuantConfig
from conformance.implementations.schemes import METHODS
from conformance.implementations.sglang import groups
from conformance.implementations.sglang.runtime import installed_version, runtime
from strategies.cases import Quantization
from strategies.libraries import Library


class SglangLayers(LayerLibrary):
    """`sglang.srt.layers.linear`, built, loaded and finished as SGLang's model loader does."""

    library = Library.SGLANG

    def identity(self) -> str:
        return f"{self.library.value} {installed_version()}"

    def prepare(self) -> None:
        if type(runtime().context.get_parallel()) is runtime().context.ParallelContext:
            groups.install()

    def ranked(self, group: RankGroup) -> AbstractContextManager[None]:
        return groups.ranked(group)

    def build(self, cls: type[nn.Module], arguments: Mapping[str, object], quantization: Quantization) -> nn.Module:
        """An instance; a layer that keeps out of tensor parallelism is of SGLang's group ``replicated``."""
        given = {name: value for name, value in arguments.items() if name != "return_bias"}
        if given.pop("disable_tp", False):
            given["parallel_group"] = "replicated"
        if quantization is not Quantization.NONE:
            given["quant_config"] = ServedQuantConfig(METHODS[quantization])
        return cls(**given)

    def load(self, layer: nn.Module, name: str, loaded: Tensor, *shard: int | str) -> None:
        """Through the loader that the parameter carries, as the ``load_weights`` of SGLang's models does."""
        parameter: Any = getattr(layer, name)
        parameter.weight_loader(parameter, loaded.to(parameter.dtype), *shard)
