"""PEFT's LoRA layers as the implementation under test, on torch's layers."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.experts import ExpertsServer, ExpertWeights
from conformance.implementations.model_protocol import ModelDeployment, ModelManager
from conformance.implementations.peft.experts import PeftExperts
from conformance.implementations.peft.fitting import PEFT_HAS_NO, as_peft_serves_it
from conformance.implementations.peft.hosting import (
    LAYER,
    Host,
    ModelOfOne,
    installed_version,
    lora_config,
    peft,
    slot_name,
)
from conformance.implementations.peft.manager import PeftManager
from conformance.implementations.peft.vocabulary import PeftVocabulary
from conformance.implementations.protocol import Deployment, Implementation
from conformance.implementations.torch_fitting import as_torch_has_it
from conformance.implementations.torch_layers import TorchLayers
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from lora_compat.adapters import LayerAdapter
from strategies.cases import Case
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.trees import ModelSpec
from strategies.vocabulary import VocabularyCase

_EXACT_ROOTS = (1, 4, 16, 64, 256)
_TARGETS: dict[str, Any] = {"target_modules": [LAYER]}


class PeftImplementation(Implementation):
    """A model of one layer for each layer under test; its slots are the names of PEFT's adapters."""

    name = "peft"

    def __init__(self) -> None:
        self.layers = TorchLayers()

    def identity(self) -> Mapping[str, str]:
        return {
            "implementation": f"peft {installed_version()}",
            "layers": self.layers.identity(),
            "python": platform.python_version(),
        }

    def fitted(self, spec: Spec) -> Spec:
        return as_peft_serves_it(as_torch_has_it(spec))

    def without(self, clause: str) -> str | None:
        return PEFT_HAS_NO.get(clause)

    def unsupported(self, case: Case) -> str | None:
        return None if case == self.fitted(case) else "torch has no such layer, or PEFT no such batch"

    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module | None:
        host = Host(ModelOfOne(layer), **_TARGETS)
        wrapped: nn.Module = host.layers()[LAYER]
        object.__setattr__(wrapped, "host", host)  # no child of the layer
        return wrapped

    def load(self, wrapped: nn.Module, slot: int, adapter: LayerAdapter) -> None:
        (part,) = adapter.parts
        assert part is not None
        tensors = {f"{LAYER}.lora_A.weight": part.lora_a, f"{LAYER}.lora_B.weight": part.lora_b}
        config = lora_config(part.rank, adapter.scaling, rslora=rank_stabilised(slot, part.rank), **_TARGETS)
        _host(wrapped).add(slot_name(slot), config, tensors)

    def reset(self, wrapped: nn.Module, slot: int) -> None:
        _host(wrapped).delete(slot_name(slot))

    def select(self, wrapped: nn.Module, slots: tuple[int, ...]) -> None:
        _host(wrapped).select([slot_name(slot) for slot in slots])

    def merge(
        self, wrapped: nn.Module, slots: Sequence[int], weights: Sequence[float], *, for_good: bool = False
    ) -> nn.Module:
        """The layer with the weighted sum of these slots' adapters in its base weights; for good, the base layer."""
        merged = _host(wrapped).merge([slot_name(slot) for slot in slots], weights, for_good=for_good)
        return merged.get_submodule(LAYER)

    def unmerge(self, wrapped: nn.Module) -> None:
        """Takes what is merged out of the base weights again."""
        _host(wrapped).unmerge()

    def vocabulary(self, case: VocabularyCase, weights: VocabularyWeights, group: RankGroup) -> VocabularyServer:
        """An embedding or LM head of torch with its adapters."""
        return PeftVocabulary(case, weights)

    def experts(self, case: ExpertsCase, weights: tuple[ExpertWeights, ...], group: RankGroup) -> ExpertsServer:
        """A mixture of stacked experts with its adapters."""
        return PeftExperts(weights)

    def dense_weight(self, module: nn.Module) -> Tensor:
        weight: Tensor = _lora(module).get_base_weight()
        return weight.detach()

    def claimants(self, layer: nn.Module, deployment: Deployment) -> tuple[str, ...]:
        """The dispatchers of PEFT's LoRA that would make a LoRA layer of it."""
        module: Any = peft().tuners.lora.model
        dispatchers = {name: one for name, one in vars(module).items() if name.startswith("dispatch_")}
        config = lora_config(1, 1.0, **_TARGETS)
        options = {"r": 1, "lora_alpha": 1, "target_name": LAYER}
        made = {name: one(layer, "any", config=config, **options) for name, one in dispatchers.items()}
        return tuple(sorted(name for name, one in made.items() if one is not None))

    def unsupported_model(self, model: ModelSpec, deployment: ModelDeployment) -> str | None:
        return "PEFT takes no empty list of targets" if deployment.targets == () else None

    def manager(self, model: nn.Module, deployment: ModelDeployment) -> ModelManager:
        return PeftManager(model, deployment)


def rank_stabilised(slot: int, rank: int) -> bool:
    """Of the two ways to say a scaling every second slot takes the rank-stabilised one, where it is exact."""
    return slot % 2 == 1 and rank in _EXACT_ROOTS


def _lora(module: nn.Module) -> Any:
    assert isinstance(module, peft().tuners.lora.LoraLayer), f"no LoRA layer: {type(module).__qualname__}"
    return module


def _host(wrapped: nn.Module) -> Host:
    host: Host = _lora(wrapped).host
    return host
