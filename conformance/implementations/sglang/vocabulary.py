"""SGLang's embedding and LM head with their LoRA layers."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import default_dtype, torch_dtype
from conformance.implementations.protocol import LayerLibrary
from conformance.implementations.sglang.modules import ToyModel
from conformance.implementations.sglang.runtime import runtime
from conformance.implementations.sglang.slots import Slots, backend_of, pool_of
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from lora_compat.adapters import LayerAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer


def unsupported_vocabulary(case: VocabularyCase) -> str | None:
    """Why SGLang has no such case, or None."""
    if case.added:
        return "SGLang refuses adapters that add ids to the vocabulary, and its loader zeroes the rows of added ids"
    if case.bias:
        return "SGLang's logits processor adds no bias of an LM head"
    if case.tp_size == 1 and any(not 0 <= one < case.vocabulary for one in case.ids):
        return (
            "SGLang looks ids up unmasked where it does not shard: an id outside the vocabulary is the caller's error"
        )
    return None


class SglangVocabulary(VocabularyServer):
    """`VocabParallelEmbedding` or `ParallelLMHead` with its LoRA layer; logits by SGLang's processor."""

    def __init__(
        self, case: VocabularyCase, weights: VocabularyWeights, group: RankGroup, layers: LayerLibrary
    ) -> None:
        self._case, self._group, self._layers = case, group, layers
        self._heads = case.layer is VocabularyLayer.LM_HEAD
        embedding = runtime().embedding
        cls = embedding.ParallelLMHead if self._heads else _scaled(embedding.VocabParallelEmbedding, case.multiplier)
        dtype = torch_dtype(case.dtype)
        with layers.ranked(group), default_dtype(dtype):
            self._base: Any = cls(case.vocabulary, case.width, padding_size=case.padding_size)
            self._base.weight_loader(self._base.weight, weights.weight.to(dtype))
            if self._heads:
                self._logits = _Logits(case)
        self._wrapped: Any = None
        self._slots: Slots | None = None

    def load(self, slot: int, adapter: LayerAdapter) -> None:
        (part,) = adapter.parts
        assert part is not None
        name, kind = ("lm_head", "lora_{}.weight") if self._heads else ("embed_tokens", "lora_embedding_{}")
        tensors = {
            f"base_model.model.model.{name}.{kind.format(letter)}": tensor
            for letter, tensor in (("A", part.lora_a), ("B", part.lora_b))
        }
        with self._layers.ranked(self._group):
            self._lora().load(slot, tensors, part.rank, adapter.scaling)

    def reset(self, slot: int) -> None:
        self._lora().reset(slot)

    def run(self, slots: tuple[int, ...] | None, given: Tensor) -> Tensor:
        with self._layers.ranked(self._group):
            layer = self._base
            if slots is not None:
                self._lora().select(slots)
                layer = self._wrapped
            if self._heads:
                return self._logits(layer, given.reshape(-1, given.shape[-1]))
            embedded: Tensor = layer(given)
            return embedded

    def _lora(self) -> Slots:
        if self._slots is None:
            case, dtype = self._case, self._base.weight.dtype
            backend = backend_of(case.max_loras, self._base.weight.device)
            self._wrapped = runtime().lora_layers.get_lora_layer(self._base, backend)
            name = "lm_head" if self._heads else "embed_tokens"
            sizes = (case.width, case.vocabulary) if self._heads else (case.vocabulary, case.width)
            model = ToyModel(name, self._wrapped, sizes, hidden_size=case.width, vocab_size=case.vocabulary)
            pool = pool_of(model, {name}, backend, case.max_rank, dtype)
            kinds = runtime().lora_utils.LoRAType
            buffers = [pool.get_embedding_tensor(name, kind) for kind in (kinds.LORA_A, kinds.LORA_B)]
            self._wrapped.set_lora_info(*([] if self._heads else [None]), *buffers)
            role = {"head" if self._heads else "embedding": self._wrapped}
            self._slots = Slots(model, pool, backend, **role)
        return self._slots


class _Logits:
    """SGLang's logits processor over a batch of decodes, whose tokens all ask for logits."""

    def __init__(self, case: VocabularyCase) -> None:
        module = importlib.import_module("sglang.srt.layers.logits_processor")
        config = SimpleNamespace(vocab_size=case.vocabulary)
        scale = None if case.multiplier == 1 else float(case.multiplier)
        self._processor: Any = module.LogitsProcessor(config, logit_scale=scale)
        self._metadata: Any = module.LogitsMetadata(forward_mode=runtime().forward_batch.ForwardMode.DECODE)

    def __call__(self, head: Any, hidden: Tensor) -> Tensor:
        logits: Tensor = self._processor(None, hidden, head, self._metadata).next_token_logits
        return logits


def _scaled(base: Any, multiplier: int) -> Any:
    def forward(self: Any, input_: Tensor) -> Tensor:
        embedded: Tensor = base.forward(self, input_) * multiplier
        return embedded

    return base if multiplier == 1 else type("ScaledEmbedding", (base,), {"forward": forward})
