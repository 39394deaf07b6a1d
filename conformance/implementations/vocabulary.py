"""What the suite asks of an implementation that serves embeddings and LM heads; `lora_compat` is the first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lora_compat
from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from lora_compat.adapters import LayerAdapter, LoRAConfig
from lora_compat.kernels import TokenBatch
from lora_compat.vocabulary import LogitsProcessor, ParallelLMHead, VocabParallelEmbedding
from strategies.vocabulary import VocabularyCase, VocabularyLayer


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyWeights:
    """The checkpoint: ``weight [ids, width]`` and, with a bias, ``bias [ids]``; the layer lives on their device."""

    weight: Tensor
    bias: Tensor | None

    def to(self, device: str) -> VocabularyWeights:
        """The same on ``device``."""
        return VocabularyWeights(self.weight.to(device), None if self.bias is None else self.bias.to(device))


class VocabularyServer(ABC):
    """One rank's layer with its adapters, driven by the suite."""

    @abstractmethod
    def load(self, slot: int, adapter: LayerAdapter) -> None:
        """Loads an unsharded adapter into a slot."""

    @abstractmethod
    def reset(self, slot: int) -> None:
        """Empties a slot."""

    @abstractmethod
    def run(self, slots: tuple[int, ...] | None, given: Tensor) -> Tensor:
        """Embeddings of ids, or logits of hidden states; without slots, those of the bare layer."""


class ScaledEmbedding(VocabParallelEmbedding):
    """An embedding whose forward multiplies what it looks up, as Gemma's do."""

    multiplier = 1

    def forward(self, input_: Tensor) -> Tensor:
        return super().forward(input_) * self.multiplier


class ReferenceVocabulary(VocabularyServer):
    """`lora_compat`'s layers and LoRA layers."""

    def __init__(self, case: VocabularyCase, weights: VocabularyWeights, group: RankGroup) -> None:
        dtype = torch_dtype(case.dtype)
        config = LoRAConfig(case.max_loras, case.max_rank, case.fully_sharded)
        sizes: dict[str, Any] = {
            "org_num_embeddings": case.original,
            "padding_size": case.padding_size,
            "params_dtype": dtype,
        }
        self._processor = LogitsProcessor(case.vocabulary, case.multiplier)
        with lora_compat.tensor_parallel(group):
            if case.layer is VocabularyLayer.LM_HEAD:
                self._bare: VocabParallelEmbedding = ParallelLMHead(case.vocabulary, case.width, case.bias, **sizes)
            else:
                self._bare = ScaledEmbedding(case.vocabulary, case.width, **sizes)
                self._bare.multiplier = case.multiplier
        for name, tensor in (("weight", weights.weight), ("bias", weights.bias)):
            if tensor is not None:
                self._bare.weight_loader(getattr(self._bare, name), tensor.to(dtype))
        self._bare.to(weights.weight.device)
        self._config = config

    @property
    def layer(self) -> torch.nn.Module:
        """The layer without adapters."""
        return self._bare

    def through(self, layer: Any, given: Tensor) -> Tensor:
        """What ``layer``, this one or what took its place in a model, makes of ids or hidden states."""
        result: Tensor = layer(given) if given.dtype == torch.int64 else self._processor(layer, given)
        return result

    @property
    def wrapped(self) -> Any:
        """The LoRA layer; one for the layer, however often it is asked for."""
        wrap = lora_compat.wrap_layer if isinstance(self._bare, ParallelLMHead) else lora_compat.wrap_embedding
        self._wrapped = wrap(self._bare, self._config)
        return self._wrapped

    def load(self, slot: int, adapter: LayerAdapter) -> None:
        self.wrapped.set_lora(slot, adapter)

    def reset(self, slot: int) -> None:
        self.wrapped.reset_lora(slot)

    def run(self, slots: tuple[int, ...] | None, given: Tensor) -> Tensor:
        layer: Any = self._bare
        if slots is not None:
            layer = self.wrapped
            layer.set_batch(TokenBatch.of(slots, given.device))
        return self.through(layer, given)
