"""torch's embedding, and a linear layer as LM head, with PEFT's LoRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conformance.implementations.dtypes import default_dtype, torch_dtype
from conformance.implementations.peft.hosting import LAYER, Host, ModelOfOne, lora_config, slot_name
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from lora_compat.adapters import LayerAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer


class ScaledEmbedding(nn.Embedding):
    """An embedding whose forward multiplies what it looks up, by what transformers' models call so."""

    embed_scale = 1.0

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.embed_scale


class PeftVocabulary(VocabularyServer):
    """One layer in a PEFT model; logits are multiplied behind it."""

    def __init__(self, case: VocabularyCase, weights: VocabularyWeights) -> None:
        self._embeds = case.layer is VocabularyLayer.EMBEDDING
        self._multiplier = 1 if self._embeds else case.multiplier
        with default_dtype(torch_dtype(case.dtype)):
            self._bare: nn.Module = self._made(case)
        for name, tensor in (("weight", weights.weight), ("bias", weights.bias)):
            if tensor is not None:
                self._bare.get_parameter(name).data.copy_(tensor)
        self._host: Host | None = None

    def _made(self, case: VocabularyCase) -> nn.Module:
        if not self._embeds:
            return nn.Linear(case.width, case.vocabulary, bias=case.bias)
        embedding = (nn.Embedding if case.multiplier == 1 else ScaledEmbedding)(case.vocabulary, case.width)
        if isinstance(embedding, ScaledEmbedding):
            embedding.embed_scale = float(case.multiplier)
        return embedding

    def load(self, slot: int, adapter: LayerAdapter) -> None:
        (part,) = adapter.parts
        assert part is not None
        if self._host is None:
            self._host = Host(ModelOfOne(self._bare), target_modules=[LAYER])
        a, b = ("lora_embedding_A", "lora_embedding_B") if self._embeds else ("lora_A.weight", "lora_B.weight")
        config = lora_config(part.rank, adapter.scaling, target_modules=[LAYER])
        self._host.add(slot_name(slot), config, {f"{LAYER}.{a}": part.lora_a, f"{LAYER}.{b}": part.lora_b})

    def reset(self, slot: int) -> None:
        assert self._host is not None
        self._host.delete(slot_name(slot))

    def run(self, slots: tuple[int, ...] | None, given: Tensor) -> Tensor:
        with torch.no_grad():
            if slots is None or self._host is None:
                found: Tensor = self._bare(given)
            else:
                self._host.select([slot_name(slot) for slot in slots])
                found = self._host.call(given)
            return found * self._multiplier
