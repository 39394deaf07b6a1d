"""Layers over a vocabulary, sharded by rows: embedding, LM head and logits, with vLLM's names and padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_compat.families import registry
from lora_compat.family import Family
from lora_compat.parallel import SINGLE, TensorParallelGroup, current_group
from lora_compat.quantization import UnquantizedLinearMethod, set_loading
from lora_compat.sharding import OutputSlice, ShardPlan
from lora_compat.unwrap import unwrap as base_of
from lora_compat.vocabulary_shards import VocabularyShard


class UnquantizedEmbeddingMethod(UnquantizedLinearMethod):
    """The weight as it was loaded, also looked up by row."""

    def embedding(self, layer: Any, rows: Tensor) -> Tensor:
        """``weight[rows]`` for local rows of any shape."""
        with torch._C.DisableTorchFunctionSubclass():  # a weight tied to an LM head with adapters has none here
            return functional.embedding(rows, layer.weight)


class VocabParallelEmbedding(nn.Module):
    """Each rank looks up the ids it holds, and all are summed. An id that nobody holds gives zeros."""

    weight: nn.Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        params_dtype: torch.dtype | None = None,
        org_num_embeddings: int | None = None,
        padding_size: int = 64,
        quant_config: None = None,
        prefix: str = "",
        *,
        disable_tp: bool = False,
    ) -> None:
        super().__init__()
        self.tp_group: TensorParallelGroup = SINGLE if disable_tp else current_group()
        self.tp_rank, self.tp_size = self.tp_group.rank, self.tp_group.size
        self.num_embeddings = num_embeddings
        self.org_vocab_size = org_num_embeddings or num_embeddings
        self.embedding_dim = self.input_size = embedding_dim
        self.padding_size = padding_size
        self.params_dtype = params_dtype or torch.get_default_dtype()
        self.shard = self.shard_of(self.tp_rank)
        self.output_partition_sizes = [self.shard.rows]
        self.quant_method = UnquantizedEmbeddingMethod()
        self.quant_method.create_weights(
            self, embedding_dim, [self.shard.rows], self.params_dtype, cast(Callable[..., None], self.weight_loader)
        )

    def shard_of(self, rank: int) -> VocabularyShard:
        """What rank ``rank`` of this layer's group holds."""
        return VocabularyShard.of(self.num_embeddings, self.org_vocab_size, self.padding_size, rank, self.tp_size)

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor) -> None:
        """Copies this rank's rows of a checkpoint tensor that has a row for every id, or for the original ones.

        Raises:
            ValueError: it has another number of rows.
        """
        if loaded_weight.shape[0] not in (self.org_vocab_size, self.num_embeddings):
            raise ValueError(
                f"the checkpoint tensor has {loaded_weight.shape[0]} rows, the vocabulary {self.num_embeddings} ids, "
                f"{self.org_vocab_size} of them original"
            )
        param.data.copy_(self.shard.take(loaded_weight))

    def local_rows(self, whole: Tensor) -> Tensor:
        """This rank's rows of ``whole [ids, ...]``, as the layer's own weight loader cuts them."""
        local = nn.Parameter(whole.new_zeros(self.shard.rows, *whole.shape[1:]), requires_grad=False)
        self.weight_loader(local, whole)
        return local.data

    def forward(self, input_: Tensor) -> Tensor:
        """Embeddings ``[..., embedding_dim]`` of the ids ``input_ [...]``."""
        rows, held = self.shard.find(input_)
        output = self.quant_method.embedding(self, rows).masked_fill(~held.unsqueeze(-1), 0)
        return self.tp_group.all_reduce(output) if self.tp_size > 1 else output


class ParallelLMHead(VocabParallelEmbedding):
    """The projection to the vocabulary; `LogitsProcessor` multiplies with it."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bias: bool = False,
        params_dtype: torch.dtype | None = None,
        org_num_embeddings: int | None = None,
        padding_size: int = 64,
        quant_config: None = None,
        prefix: str = "",
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, params_dtype, org_num_embeddings, padding_size, quant_config, prefix
        )
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.zeros(self.shard.rows, dtype=self.params_dtype), requires_grad=False)
            set_loading(self.bias, cast(Callable[..., None], self.weight_loader), output_dim=0, input_dim=None)

    def shard_plan(self, *, fully_sharded: bool) -> ShardPlan:
        """Which rows of LoRA B this rank owns: those of the ids it holds, and padding."""
        columns = range(self.embedding_dim)
        rows = OutputSlice(self.num_embeddings, range(self.shard.rows))
        sharded = fully_sharded and self.tp_size > 1
        return ShardPlan(
            Family.COLUMN, self.tp_rank, self.tp_size, sharded, columns, (rows,), lambda b, index: self.local_rows(b)
        )

    def forward(self, input_: Tensor) -> Tensor:
        raise RuntimeError("an LM head is multiplied with by LogitsProcessor, not called")


class LogitsProcessor(nn.Module):
    """Logits of the whole vocabulary, in the order of the ids, without padding."""

    def __init__(self, vocab_size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.scale = scale

    def forward(self, lm_head: nn.Module, hidden_states: Tensor) -> Tensor:
        """``scale · (hidden_states · Wᵀ + bias)``, ``[..., vocab_size]``; ``lm_head`` may be a LoRA layer."""
        head = cast(ParallelLMHead, base_of(lm_head))
        logits = head.quant_method.apply(head, hidden_states, head.bias)
        if head.tp_size > 1:
            logits = head.tp_group.all_gather(logits, dim=-1)
        return logits[..., _places(head)[: self.vocab_size]] * self.scale


def _places(head: ParallelLMHead) -> list[int]:
    """Where each id's logit is once the ranks' are side by side."""
    shards = [head.shard_of(rank) for rank in range(head.tp_size)]
    starts = [rank * shard.rows for rank, shard in enumerate(shards)]
    original = [start + row for start, shard in zip(starts, shards, strict=True) for row in range(len(shard.original))]
    added = [
        start + shard.original_rows + row
        for start, shard in zip(starts, shards, strict=True)
        for row in range(len(shard.added))
    ]
    return original + added


registry.register(ParallelLMHead, Family.COLUMN, lambda layer: cast(ParallelLMHead, layer).tp_group)
