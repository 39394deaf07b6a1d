"""What a model's LoRA layers have in common, and which of them serves which module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from lora_compat.adapters import LoRAConfig
from lora_compat.embeddings import LoRAEmbedding, wrap_embedding
from lora_compat.expert_adapters import LoRAExperts, wrap_experts
from lora_compat.experts import FusedMoE
from lora_compat.families import family_of
from lora_compat.kernels import TokenBatch
from lora_compat.vocabulary import VocabParallelEmbedding
from lora_compat.wrapper import LoRALinear, wrap_layer

LORA_LAYERS = (LoRALinear, LoRAEmbedding, LoRAExperts)


class LoRALayer(Protocol):
    """A layer with slots; its adapters are `LayerAdapter`s, those of a mixture of experts `ExpertsAdapter`s."""

    @property
    def max_loras(self) -> int:
        """How many slots there are."""

    @property
    def max_rank(self) -> int:
        """The largest rank of an adapter."""

    @property
    def rank_shards(self) -> int:
        """Into how many parts this layer cuts the LoRA rank."""

    @property
    def lora_device(self) -> torch.device:
        """Where the slots are."""

    def check(self, adapter: Any) -> None:
        """Whether ``adapter`` would load into any slot.

        Raises:
            AdapterShapeError, AmbiguousPartsError: a tensor does not fit the layer.
        """

    def set_lora(self, slot: int, adapter: Any) -> None:
        """Loads ``adapter`` (unsharded) into ``slot``; this rank takes its part."""

    def reset_lora(self, slot: int) -> None:
        """Empties ``slot``."""

    def saved(self, slot: int) -> tuple[Tensor, ...]:
        """A copy of what ``slot`` holds, for `restore`."""

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Puts back what `saved` copied."""

    def set_batch(self, batch: TokenBatch | None) -> None:
        """Selects which slot serves each token of the next forwards; None: no adapters."""


def carries_lora(module: nn.Module) -> bool:
    """Whether ``module`` is a LoRA layer, or of a class that one can stand for."""
    return isinstance(module, (*LORA_LAYERS, VocabParallelEmbedding, FusedMoE)) or family_of(module) is not None


def lora_layer(module: nn.Module, config: LoRAConfig, *, name: str = "") -> LoRALayer:
    """The LoRA layer for ``module``; wrapping what is wrapped already gives the wrapper it has (WRAP-5).

    Raises:
        UnsupportedLayerError: the module is neither a linear layer, an embedding nor a mixture of experts, or has
            nothing to intercept.
    """
    if isinstance(module, LORA_LAYERS):
        return cast(LoRALayer, module)
    if isinstance(module, FusedMoE):
        return wrap_experts(module, config, name=name)
    if isinstance(module, VocabParallelEmbedding) and family_of(module) is None:  # an LM head multiplies
        return wrap_embedding(module, config, name=name)
    return wrap_layer(module, config, name=name)


def experts_in(layers: Mapping[str, LoRALayer]) -> dict[str, int]:
    """The mixtures of experts among ``layers``, and how many experts each has."""
    mixtures = {name: layer.base_layer for name, layer in layers.items() if isinstance(layer, LoRAExperts)}
    return {name: layer.global_num_experts for name, layer in mixtures.items() if isinstance(layer, FusedMoE)}
