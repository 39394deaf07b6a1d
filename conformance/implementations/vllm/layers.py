"""vLLM's linear layers as base layers: every rank is a thread or a process that the suite's engine runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.protocol import LayerLibrary
from conformance.implementations.schemes import METHODS
from conformance.implementations.vllm import fp8 as vllm_fp8
from conformance.implementations.vllm import groups as vllm_groups
from conformance.implementations.vllm.models.hosted import VllmModelLibrary
from conformance.implementations.vllm.quantization import VllmQuantConfig
from conformance.implementations.vllm.runtime import installed_version, runtime, set_up
from strategies.cases import Case, Quantization, Regime
from strategies.libraries import Library
from strategies.quantization import OF_ACTIVATIONS

_FP8_ON_CPU = (0, 32, 0)


class VllmLayers(LayerLibrary):
    """`vllm.model_executor.layers.linear`, built, loaded and finished as vLLM's model loader does."""

    library = Library.VLLM
    models = VllmModelLibrary()

    def __init__(self, device: str | None = None) -> None:
        self._device = device  # None: wherever vLLM is

    def identity(self) -> str:
        return f"{self.library.value} {installed_version()}"

    def prepare(self) -> None:
        found = runtime() if self._device is None else set_up(self._device)
        found.parallel_state._TP = vllm_groups.stand_in()

    def ranked(self, group: RankGroup) -> AbstractContextManager[None]:
        return vllm_groups.ranked(group)

    def build(self, cls: type[nn.Module], arguments: Mapping[str, object], quantization: Quantization) -> nn.Module:
        """An instance that can run at once, as the oracle does with layers that are never finished."""
        given = dict(arguments)
        if quantization in OF_ACTIVATIONS:
            with vllm_fp8.served_in_default_dtype():
                layer: Any = cls(**given, quant_config=vllm_fp8.quant_config())
        else:
            if quantization is not Quantization.NONE:
                given["quant_config"] = VllmQuantConfig(METHODS[quantization])
            layer = cls(**given)
        if _is_unquantized(layer):
            # vLLM's CPU kernels take some dtypes and shapes, and one of them empties `weight`; torch's takes all.
            layer.cpu_linear = nn.functional.linear
        if isinstance(cls, type):
            _bind_own_loader(layer)
        return layer  # type: ignore[no-any-return]

    def load(self, layer: nn.Module, name: str, loaded: Tensor, *shard: int | str) -> None:
        """Through the loader that the parameter carries, as the ``load_weights`` of vLLM's models does."""
        parameter: Any = getattr(layer, name)
        if name == "weight" and vllm_fp8.is_fp8(layer):
            vllm_fp8.load_quantized(layer, loaded, *shard)
        else:
            parameter.weight_loader(parameter, loaded.to(parameter.dtype), *shard)

    def unsupported(self, case: Case) -> str | None:
        if case.quantization in OF_ACTIVATIONS and case.regime is Regime.EXACT:
            return "vLLM's FP8 scales are no powers of two, so its products round: the rounded regime only"
        if case.quantization in OF_ACTIVATIONS and runtime().release < _FP8_ON_CPU:
            return "its FP8 layers ask the platform for `num_compute_units`, which a CPU has from 0.32.0 on"
        return None

    def finish(self, layer: nn.Module) -> None:
        if not _is_unquantized(layer):
            layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr,operator]


def _is_unquantized(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "quant_method", None), runtime().linear.UnquantizedLinearMethod)


def _bind_own_loader(layer: nn.Module) -> None:
    """Makes a drawn class's own ``weight_loader`` the one its weight is loaded with.

    vLLM's constructors bind ``weight_loader_v2`` to the weights of most quant methods, none included, so a class that
    overrides ``weight_loader`` alone would load its weight as if it had not. Classes in vLLM override both, alias one
    to the other (`Step5SparseIndexerIndexTPLinear`), or re-bind the parameter's (`mamba_mixer2`); the last is done
    here, which leaves the rendered source the same for every library. Existing classes keep what they have bound.
    """
    cls: Any = type(layer)
    weight: Any = layer._parameters.get("weight")
    if weight is None:
        return
    owner = next(one for one in cls.__mro__ if "weight_loader" in vars(one))
    if not owner.__module__.startswith("vllm."):
        weight.weight_loader = layer.weight_loader
