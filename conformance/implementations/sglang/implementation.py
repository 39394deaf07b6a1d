"""SGLang's own LoRA layers as the implementation under test, with its torch backend on a CPU."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.model_protocol import ModelDeployment, ModelManager
from conformance.implementations.protocol import Deployment, Implementation
from conformance.implementations.sglang.claims import claimants
from conformance.implementations.sglang.layers import SglangLayers
from conformance.implementations.sglang.manager import SglangManager, unsupported_model
from conformance.implementations.sglang.modules import unsupported_packing
from conformance.implementations.sglang.runtime import installed_version, refusing, runtime
from conformance.implementations.sglang.slots import LayerSlots, backend_of, slots_of
from conformance.implementations.sglang.vocabulary import SglangVocabulary, unsupported_vocabulary
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from lora_compat.adapters import LayerAdapter
from lora_compat.families import Family
from lora_compat.quantization import WeightOnlyLinearMethod
from strategies.cases import AdapterSpec, Case, LayerSpec
from strategies.codec import Spec
from strategies.programs import ModelAdapterSpec, Program
from strategies.trees import ModelSpec
from strategies.vocabulary import VocabularyCase

_NO_RANK = "SGLang warms up with batches of no adapter, and cuts no rank: there is none to be chosen"
_NO_SEARCH = "SGLang takes its own LoRA layer off a layer, and looks through no other module"
WITHOUT = {
    **dict.fromkeys(("UNWRAP-3", "UNWRAP-4"), _NO_SEARCH),
    **dict.fromkeys(("TARGET-1", "TARGET-2"), "SGLang's targets are last parts of names from a list of its own"),
    "LIFE-2": "SGLang counts use by batches: no call activates an adapter, and it registers as many as it is given",
    **dict.fromkeys((f"RANK-{number}" for number in range(1, 7)), _NO_RANK),
}


class SglangImplementation(Implementation):
    """`get_lora_layer`, the LoRA layers it returns, and what SGLang's memory pool and backend do with them."""

    name = "sglang"
    why_no_experts = "SGLang's LoRA for mixtures of experts runs on Triton or Marlin kernels, which need a GPU"

    def __init__(self) -> None:
        self.layers = SglangLayers()

    def identity(self) -> Mapping[str, str]:
        return {
            "implementation": f"sglang {installed_version()}",
            "layers": "sglang",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}, torch_native backend",
        }

    def fitted(self, spec: Spec) -> Spec:
        """Its layers all return their bias next to their output, and have no option of keeping whole what is whole.

        Nothing in SGLang looks through modules around its LoRA layers.

        An adapter has one rank and one scaling; those that say otherwise come from PEFT's files.
        """
        if isinstance(spec, Case):
            return replace(spec, layer=_fitted(spec.layer), nesting=())
        if isinstance(spec, Program):
            modules = tuple(replace(one, layer=_fitted(one.layer)) for one in spec.model.modules)
            adapters = spec.adapters if spec.from_disk else tuple(map(_of_one_rank, spec.adapters))
            return replace(spec, model=replace(spec.model, modules=modules), adapters=adapters)
        return spec

    def without(self, clause: str) -> str | None:
        return WITHOUT.get(clause)

    def unsupported(self, case: Case) -> str | None:
        if case.device != "cpu":
            return f"SGLang is driven on a CPU here, not on {case.device}"
        return unsupported_packing(case)

    def unsupported_vocabulary(self, case: VocabularyCase) -> str | None:
        """Why there is no such embedding or LM head, or None."""
        return unsupported_vocabulary(case)

    def vocabulary(self, case: VocabularyCase, weights: VocabularyWeights, group: RankGroup) -> VocabularyServer:
        """An embedding or LM head with its adapters, on one rank."""
        return SglangVocabulary(case, weights, group, self.layers)

    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module | None:
        device = next(layer.parameters(), torch.empty(0)).device
        with refusing():
            wrapped = runtime().lora_layers.get_lora_layer(layer, backend_of(deployment.max_loras, device))
        wrapped.__dict__["slots"] = LayerSlots.of(wrapped, deployment)
        return wrapped  # type: ignore[no-any-return]

    def load(self, wrapped: nn.Module, slot: int, adapter: LayerAdapter) -> None:
        slots_of(wrapped).load(slot, adapter)

    def reset(self, wrapped: nn.Module, slot: int) -> None:
        slots_of(wrapped).slots.reset(slot)

    def select(self, wrapped: nn.Module, slots: tuple[int, ...]) -> None:
        slots_of(wrapped).slots.select(slots)

    def quant_method_of(self, module: nn.Module) -> object:
        return runtime().lora_layers.unwrap_lora_layer(module).quant_method

    def dense_weight(self, module: nn.Module) -> Tensor:
        """As SGLang's own readers do: of the plain module that it unwraps, whose quant method dequantizes."""
        plain = runtime().lora_layers.unwrap_lora_layer(module)
        method = plain.quant_method
        dense: Tensor = method.dequantize(plain) if isinstance(method, WeightOnlyLinearMethod) else plain.weight
        return dense.detach()

    def claimants(self, layer: nn.Module, deployment: Deployment) -> tuple[str, ...]:
        return claimants(layer, backend_of(deployment.max_loras, torch.device("cpu")))

    def unsupported_model(self, model: ModelSpec, deployment: ModelDeployment) -> str | None:
        return unsupported_model(model, deployment)

    def manager(self, model: nn.Module, deployment: ModelDeployment) -> ModelManager:
        return SglangManager(model, deployment)


def _fitted(layer: LayerSpec) -> LayerSpec:
    whole = layer.family is Family.REPLICATED
    return replace(layer, return_bias=True, disable_tp=layer.disable_tp and not whole)


def _of_one_rank(adapter: ModelAdapterSpec) -> ModelAdapterSpec:
    first = next(part for part in adapter.parts if part is not None)
    return replace(adapter, parts=tuple(part and _like(part, first) for part in adapter.parts))


def _like(part: AdapterSpec, first: AdapterSpec) -> AdapterSpec:
    return replace(part, rank=first.rank, alpha=first.alpha, rslora=first.rslora, ranks=())
