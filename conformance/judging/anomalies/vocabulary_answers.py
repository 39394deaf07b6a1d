"""What merged weights give an embedding or an LM head, in parts that mistakes are put together from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from conformance.values.vocabulary import VocabularyTensors
from lora_compat.adapters import LayerAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer


class Answers:
    """``base`` and ``right``, both ``[tokens, width or ids]``, and ``deltas``, each adapter's table of rows."""

    def __init__(self, case: VocabularyCase, tensors: VocabularyTensors) -> None:
        self.case, self.tensors = case, tensors
        self.embeds = case.layer is VocabularyLayer.EMBEDDING
        self.scale = float(case.multiplier)
        self.deltas = [self.contribution(adapter) for adapter in tensors.adapters]
        self.base = self.scale * self.read_all(lambda adapter: tensors.weights.weight)
        if tensors.weights.bias is not None:
            self.base = self.base + self.scale * tensors.weights.bias
        self.right = self.with_deltas(self.deltas)

    def contribution(self, adapter: LayerAdapter) -> Tensor:
        """``s·B·A`` as rows of ids, ``[ids, width]``; zero for ids that the adapter does not know."""
        (part,) = adapter.parts
        assert part is not None
        delta = adapter.scaling * (part.lora_b @ part.lora_a)
        delta = delta.t() if self.embeds else delta
        return torch.cat([delta, delta.new_zeros(self.case.vocabulary - len(delta), delta.shape[1])])

    def read(self, table: Tensor, token: int) -> Tensor:
        """What one token gets of a table of rows."""
        if not self.embeds:
            return table @ self.tensors.hidden[token]
        token_id = self.case.ids[token]
        return table[token_id] if 0 <= token_id < len(table) else table.new_zeros(table.shape[1])

    def read_all(self, table: Callable[[int], Tensor]) -> Tensor:
        """The same for all tokens, by the table of each one's adapter."""
        return torch.stack([self.read(table(adapter), token) for token, adapter in enumerate(self.case.tokens)])

    def added(self, deltas: Sequence[Tensor]) -> Tensor:
        """What tables of contributions add, before the class multiplies."""
        return self.read_all(lambda adapter: deltas[adapter] if adapter >= 0 else torch.zeros_like(deltas[0]))

    def with_deltas(self, deltas: Sequence[Tensor]) -> Tensor:
        """The outputs with these contributions."""
        return self.base + self.scale * self.added(deltas)

    def of_ids(self, ids: Iterable[int]) -> Tensor:
        """The outputs for other ids."""
        return Answers(replace(self.case, ids=tuple(ids)), self.tensors).right

    def of_adapter(self, token: int, adapter: int) -> Tensor:
        """What one token gets with any adapter."""
        return self.base[token] + (self.scale * self.read(self.deltas[adapter], token) if adapter >= 0 else 0.0)

    def of_any_id(self, adapter: int) -> Tensor:
        """What an adapter's B makes of every column of every adapter's A, ``[columns, width]``; embeddings only."""
        own = self.tensors.adapters[adapter]
        (mine,) = own.parts
        assert mine is not None
        columns = []
        for part in (part for other in self.tensors.adapters for part in other.parts if part is not None):
            rank = min(mine.rank, part.rank)
            columns.append(own.scaling * (mine.lora_b[:, :rank] @ part.lora_a[:rank]).t())
        return torch.cat(columns)
