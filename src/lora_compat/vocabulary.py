"""Layers over a vocabulary, sharded by rows: embedding, LM head and logits, with vLLM's names and padding.

The original vocabulary and the one added to it are padded and cut each on its own, and every rank holds its part of
both, so a rank's rows are neither contiguous ids nor all of them ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class VocabularyShard:
    """The ids whose rows one rank holds: ``original`` from local row 0, ``added`` from ``original_rows`` on.

    ``original_rows`` and ``added_rows`` count padding too.
    """

    original: range
    original_rows: int
    added: range
    added_rows: int

    @classmethod
    def of(cls, vocabulary: int, original: int, padding_size: int, rank: int, size: int) -> VocabularyShard:
        """Rank ``rank``'s part of a vocabulary whose first ``original`` ids were there before others were added.

        Raises:
            ValueError: the ranks do not divide the padding size.
        """
        if padding_size % size:
            raise ValueError(f"padding_size={padding_size} is not divisible by the tensor-parallel size {size}")
        padded = _padded(original, padding_size)
        rows = padded // size
        added_rows = (_padded(padded + vocabulary - original, padding_size) - padded) // size
        return cls(
            _clipped(rank * rows, rows, original),
            rows,
            _clipped(original + rank * added_rows, added_rows, vocabulary),
            added_rows,
        )

    @property
    def rows(self) -> int:
        """Local rows, padding included."""
        return self.original_rows + self.added_rows

    def find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The local row of each id, 0 for those not held here, and whether it is held; ``ids`` are not written to."""
        in_original = (ids >= self.original.start) & (ids < self.original.stop)
        in_added = (ids >= self.added.start) & (ids < self.added.stop)
        rows = torch.where(in_added, ids - self.added.start + self.original_rows, ids - self.original.start)
        held = in_original | in_added
        return torch.where(held, rows, 0), held

    def take(self, whole: Tensor) -> Tensor:
        """This rank's rows of ``whole [ids, ...]``, zero where it has none: the padding, or ids added later."""
        local = whole.new_zeros(self.rows, *whole.shape[1:])
        local[: len(self.original)] = whole[self.original.start : self.original.stop]
        held = whole[self.added.start : self.added.stop]
        local[self.original_rows : self.original_rows + len(held)] = held
        return local


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _clipped(start: int, count: int, limit: int) -> range:
    return range(min(start, limit), min(start + count, limit))


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
