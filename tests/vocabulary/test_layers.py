"""Padding, refusals, and layers that share a weight."""

from __future__ import annotations

import pytest
import torch

import lora_compat
from lora_compat import LayerAdapter, LoRAConfig, SubAdapter, TokenBatch
from lora_compat.errors import AdapterShapeError, SlotError, UnsupportedLayerError
from lora_compat.vocabulary import LogitsProcessor, ParallelLMHead, VocabParallelEmbedding
from lora_compat.vocabulary_shards import VocabularyShard

CONFIG = LoRAConfig(max_loras=2, max_lora_rank=4)


def adapter(rows: int, rank: int, columns: int) -> LayerAdapter:
    return LayerAdapter((SubAdapter(torch.ones(rank, columns), torch.ones(rows, rank)),))


def test_the_example_of_vllms_documentation_is_cut_as_it_says() -> None:
    whole = VocabularyShard.of(1026, 1010, 64, 0, 1)
    assert (whole.original, whole.original_rows, whole.rows) == (range(1010), 1024, 1088)
    second = VocabularyShard.of(1026, 1010, 64, 1, 2)
    assert (second.original, second.rows, len(second.added)) == (range(512, 1010), 544, 0)
    first = VocabularyShard.of(1026, 1010, 64, 0, 2)
    rows, held = first.find(torch.tensor([511, 1010, 1025, 512, 1026, -1]))
    assert rows[:3].tolist() == [511, 512, 527]
    assert held.tolist() == [True, True, True, False, False, False]


def test_a_padding_that_the_ranks_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"padding_size=4 .* tensor-parallel size 3"):
        VocabularyShard.of(8, 8, 4, 0, 3)


def test_a_checkpoint_of_another_vocabulary_is_refused() -> None:
    layer = VocabParallelEmbedding(12, 2, org_num_embeddings=10)
    with pytest.raises(ValueError, match="has 11 rows, the vocabulary 12 ids, 10 of them original"):
        layer.weight_loader(layer.weight, torch.ones(11, 2))


def test_an_adapter_that_does_not_fit_is_refused_and_leaves_the_slot() -> None:
    layer = lora_compat.wrap_embedding(VocabParallelEmbedding(12, 2, org_num_embeddings=10), CONFIG)
    layer.set_lora(0, adapter(2, 1, 12))
    before = [buffer.clone() for buffer in (layer.lora_a, layer.lora_b, layer.scaling)]
    for misfit, said in (
        (adapter(2, 1, 11), "a column for each of 12 ids, or of the 10 original ones"),
        (adapter(3, 1, 12), r"expected \(2, 1\), received \(3, 1\)"),
        (adapter(2, 5, 12), "max_lora_rank=4"),
    ):
        with pytest.raises(AdapterShapeError, match=said):
            layer.set_lora(0, misfit)
    with pytest.raises(SlotError):
        layer.set_lora(2, adapter(2, 1, 12))
    after = (layer.lora_a, layer.lora_b, layer.scaling)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


class FusedLookup(VocabParallelEmbedding):
    """As vLLM's on CUDA: a lookup of its own, which does not ask the quant method."""

    use_fused_embedding = True

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        return self.weight[input_] if self.use_fused_embedding else super().forward(input_)


def test_a_fused_lookup_that_would_pass_adapters_by_is_switched_off() -> None:
    base, ids = FusedLookup(12, 2), torch.tensor([3, 11])
    base.weight_loader(base.weight, torch.zeros(12, 2))
    layer = lora_compat.wrap_embedding(base, CONFIG)
    layer.set_lora(0, adapter(2, 1, 12))
    layer.set_batch(TokenBatch.of((0, -1)))
    assert layer(ids).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_an_embedding_has_one_wrapper_and_an_lm_head_is_no_embedding() -> None:
    layer = VocabParallelEmbedding(4, 2)
    wrapped = lora_compat.wrap_embedding(layer, CONFIG)
    assert lora_compat.wrap_embedding(layer, CONFIG) is wrapped
    assert lora_compat.wrap_embedding(wrapped, CONFIG) is wrapped
    for other in (ParallelLMHead(4, 2), torch.nn.Embedding(4, 2)):
        with pytest.raises(UnsupportedLayerError, match="no VocabParallelEmbedding"):
            lora_compat.wrap_embedding(other, CONFIG)


def test_an_embedding_tied_to_a_head_with_adapters_stays_plain() -> None:
    embedding, head = VocabParallelEmbedding(4, 2), ParallelLMHead(4, 2)
    embedding.weight_loader(embedding.weight, torch.eye(4, 2))
    head.weight = embedding.weight
    wrapped = lora_compat.wrap_layer(head, CONFIG)
    wrapped.set_lora(0, adapter(4, 1, 2))
    wrapped.set_batch(TokenBatch.of((0, -1)))
    rows = embedding(torch.tensor([0, 1]))
    assert torch.equal(rows, torch.eye(2))
    logits = LogitsProcessor(4)(wrapped, rows)
    assert logits.tolist() == [[2, 1, 1, 1], [0, 1, 0, 0]]
