"""vLLM's embedding and LM head with their LoRA layers."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import default_dtype, torch_dtype
from conformance.implementations.protocol import LayerLibrary
from conformance.implementations.vllm.cuda import forget_addresses
from conformance.implementations.vllm.runtime import lora_config, runtime
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from lora_compat.adapters import LayerAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer

_RANK = 8  # the smallest above 1 that vLLM's LoRAConfig accepts
_TOKENS = 256  # more than any case has


def unsupported_vocabulary(case: VocabularyCase) -> str | None:
    """Why vLLM has no such case, or None."""
    if case.layer is VocabularyLayer.LM_HEAD and case.added:
        return "vLLM's logits are those of the original ids: its base layer cuts the added ones off"
    if case.added and case.tp_size == 1:
        return "at TP 1 vLLM's base layer looks added ids up in the padding, against the layout it documents"
    unknown = [one for one in case.ids if not 0 <= one < case.vocabulary]
    if unknown and case.layer is VocabularyLayer.EMBEDDING and case.tp_size == 1:
        return "vLLM looks ids up unmasked where it does not shard: an id outside the vocabulary is the caller's error"
    return None


class VllmVocabulary(VocabularyServer):
    """`VocabParallelEmbedding` and `VocabParallelEmbeddingWithLoRA`, or `ParallelLMHead` and its logits processor."""

    def __init__(
        self, case: VocabularyCase, weights: VocabularyWeights, group: RankGroup, layers: LayerLibrary
    ) -> None:
        self._case, self._group, self._layers = case, group, layers
        self._heads = case.layer is VocabularyLayer.LM_HEAD
        module = importlib.import_module("vllm.model_executor.layers.vocab_parallel_embedding")
        cls: Any = module.ParallelLMHead if self._heads else _scaled(module.VocabParallelEmbedding, case.multiplier)
        options = {"bias": case.bias} if self._heads else {}
        dtype = torch_dtype(case.dtype)
        with layers.ranked(group), default_dtype(dtype):
            self._base: Any = cls(
                case.vocabulary,
                case.width,
                org_num_embeddings=case.original,
                padding_size=case.padding_size,
                **options,
            )
            for name, tensor in (("weight", weights.weight), ("bias", weights.bias)):
                if tensor is not None:
                    self._load(getattr(self._base, name), tensor.to(dtype))
            self._base.cpu_linear = nn.functional.linear
            self._base.to(weights.weight.device)
            processor: Any = importlib.import_module("vllm.model_executor.layers.logits_processor").LogitsProcessor
            self._processor = processor(case.vocabulary, case.original, scale=float(case.multiplier))
        self._config = lora_config(case.max_loras, _RANK, case.fully_sharded, dtype)
        self._wrapped: Any = None

    def _load(self, parameter: Any, whole: Tensor) -> None:
        """The original ids by vLLM's loader, and those added where its layout has them; it loads none itself."""
        self._base.weight_loader(parameter, whole[: self._case.original])
        shard = self._base.shard_indices
        added = whole[shard.added_vocab_start_index : shard.added_vocab_end_index]
        parameter.data[shard.num_org_elements_padded :][: len(added)] = added

    def load(self, slot: int, adapter: LayerAdapter) -> None:
        (part,) = adapter.parts
        assert part is not None
        with self._layers.ranked(self._group):
            self._lora().set_lora(slot, part.lora_a, part.lora_b * adapter.scaling)

    def reset(self, slot: int) -> None:
        self._lora().reset_lora(slot)

    def run(self, slots: tuple[int, ...] | None, given: Tensor) -> Tensor:
        with self._layers.ranked(self._group):
            if slots is not None:
                self._select([slot + 1 for slot in slots])
            if not self._heads:
                layer = self._base if slots is None else self._wrapped
                embedded: Tensor = layer(given)
                return embedded
            processor = self._processor if slots is None else self._wrapped
            logits: Tensor = processor(self._base, given.reshape(-1, given.shape[-1]), self._base.bias)
            return logits

    def _lora(self) -> Any:
        if self._wrapped is None:
            forget_addresses()
        if self._wrapped is None and self._heads:
            self._wrapped = runtime().lora_layers.LogitsProcessorWithLoRA(
                self._processor,
                self._case.width,
                self._base.weight.dtype,
                self._base.weight.device,
                self._base.get_sharded_to_full_mapping(),
            )
            self._wrapped.create_lora_weights(self._case.max_loras, self._config)
        elif self._wrapped is None:
            self._wrapped = runtime().lora_utils.from_layer(self._base, self._case.max_loras, self._config, [], None)
        return self._wrapped

    def _select(self, ids: list[int]) -> None:
        slots = self._case.max_loras
        wrapper = runtime().punica_wrapper.get_punica_wrapper(
            _TOKENS, max_batches=_TOKENS, device=self._base.weight.device, lora_config=self._config
        )
        self._lora().set_mapping(wrapper)
        mapping = runtime().lora_layers.LoRAMapping(index_mapping=ids, prompt_mapping=ids, is_prefill=False)
        wrapper.update_metadata(mapping, list(range(1, slots + 1)), slots + 1, self._case.original)


def _scaled(base: Any, multiplier: int) -> Any:
    def forward(self: Any, input_: Tensor) -> Tensor:
        embedded: Tensor = base.forward(self, input_) * multiplier
        return embedded

    return base if multiplier == 1 else type("ScaledEmbedding", (base,), {"forward": forward})
