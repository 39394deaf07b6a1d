"""`lora_compat`, the reference implementation, on its own layers or on vLLM's."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

import lora_compat
from conformance.engines.ranks import RankGroup
from conformance.implementations.experts import ExpertsServer, ExpertWeights, ReferenceExperts
from conformance.implementations.model_protocol import ModelDeployment, ModelManager
from conformance.implementations.models import ModelServer
from conformance.implementations.protocol import Deployment, Implementation, LayerLibrary, Refused
from conformance.implementations.reference.manager import ReferenceManager
from conformance.implementations.reference.models import models_of
from conformance.implementations.schemes import METHODS
from conformance.implementations.vocabulary import ReferenceVocabulary, VocabularyServer, VocabularyWeights
from lora_compat.adapters import LayerAdapter, LoRAConfig
from lora_compat.errors import LoRAError
from lora_compat.families import registry
from lora_compat.kernels import TokenBatch
from lora_compat.quantization import QuantConfig
from strategies.cases import DTYPES, Dtype, Quantization
from strategies.experts import ExpertsCase
from strategies.libraries import Library
from strategies.trees import ModelSpec
from strategies.vocabulary import VocabularyCase


class LoraCompatLayers(LayerLibrary):
    """The torch-only layers of `lora_compat.layers`."""

    library = Library.LORA_COMPAT

    def prepare(self) -> None:
        pass

    def ranked(self, group: RankGroup) -> AbstractContextManager[object]:
        return lora_compat.tensor_parallel(group)

    def build(self, cls: type[nn.Module], arguments: Mapping[str, object], quantization: Quantization) -> nn.Module:
        if quantization is Quantization.NONE:
            return cls(**arguments)
        return cls(**arguments, quant_config=QuantConfig(METHODS[quantization]))


class ReferenceImplementation(Implementation):
    """`lora_compat.wrap_layer` and what belongs to it."""

    name = "reference"
    # What the reference says it cannot do is a refusal, not a crash; see the contract, WRAP-6.
    refusals = (Refused, LoRAError)

    def __init__(self, layers: LayerLibrary | None = None) -> None:
        self.layers = layers or LoraCompatLayers()

    @property
    def companions(self) -> bool:
        """On its own layers, whose mixtures and embeddings it has."""
        return isinstance(self.layers, LoraCompatLayers)

    @property
    def models(self) -> ModelServer | None:
        """Who loads checkpoints: where the base layers are of a library with models."""
        return models_of(self.layers.models) if self.layers.models else None

    def identity(self) -> Mapping[str, str]:
        return {
            "implementation": f"reference (lora_compat {lora_compat.__version__})",
            "layers": self.layers.identity(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        """The base layer's products of float32 are torch's, in TF32 where torch is told so."""
        in_tf32 = device == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
        return (Dtype.TF32, Dtype.BFLOAT16, Dtype.FLOAT16) if in_tf32 else DTYPES

    def vocabulary(self, case: VocabularyCase, weights: VocabularyWeights, group: RankGroup) -> VocabularyServer:
        """An embedding or LM head with its adapters, on one rank."""
        return ReferenceVocabulary(case, weights, group)

    def experts(self, case: ExpertsCase, weights: tuple[ExpertWeights, ...], group: RankGroup) -> ExpertsServer:
        """A mixture of experts with its adapters, on one rank."""
        return ReferenceExperts(case, weights, group)

    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module | None:
        config = LoRAConfig(
            max_loras=deployment.max_loras,
            max_lora_rank=deployment.max_lora_rank,
            fully_sharded_loras=deployment.fully_sharded,
        )
        return lora_compat.wrap_layer(layer, config)

    def load(self, wrapped: nn.Module, slot: int, adapter: LayerAdapter) -> None:
        _lora(wrapped).set_lora(slot, adapter)

    def reset(self, wrapped: nn.Module, slot: int) -> None:
        _lora(wrapped).reset_lora(slot)

    def select(self, wrapped: nn.Module, slots: tuple[int, ...]) -> None:
        layer = _lora(wrapped)
        layer.set_batch(TokenBatch.of(slots, layer.slots.lora_a.device))

    def quant_method_of(self, module: nn.Module) -> object:
        return lora_compat.quant_method_of(module)

    def dense_weight(self, module: nn.Module) -> Tensor:
        return lora_compat.dense_weight(module)

    def warmup_rank(self, *, default: int, max_lora_rank: int, shards: tuple[int, ...]) -> int:
        return lora_compat.warmup_rank(default=default, max_lora_rank=max_lora_rank, shards=shards)

    def load_dummy(self, wrapped: nn.Module, slot: int, rank: int) -> None:
        layer = _lora(wrapped)
        adapter = lora_compat.dummy_adapter(layer, rank)
        assert isinstance(adapter, LayerAdapter)
        layer.set_lora(slot, adapter)

    def claimants(self, layer: nn.Module, deployment: Deployment) -> tuple[str, ...]:
        return tuple(sorted({str(found) for found in registry.families_in_any_order(type(layer))}))

    def unsupported_model(self, model: ModelSpec, deployment: ModelDeployment) -> str | None:
        return None

    def manager(self, model: nn.Module, deployment: ModelDeployment) -> ModelManager:
        return ReferenceManager(model, deployment)


def _lora(module: nn.Module) -> lora_compat.LoRALinear:
    assert isinstance(module, lora_compat.LoRALinear), f"not a LoRA layer: {type(module).__qualname__}"
    return module
