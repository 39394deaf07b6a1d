"""The numbers of a case over a vocabulary, and what merged weights give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.vocabulary import VocabularyWeights
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer


def poison(*shape: int) -> Tensor:
    """Nothing but NaN, float64."""
    return torch.full(shape, torch.nan, dtype=torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyTensors:
    """The unsharded tensors of a case, float64; ``former`` is what slots held before, if anything."""

    weights: VocabularyWeights
    adapters: tuple[LayerAdapter, ...]
    hidden: Tensor
    former: LayerAdapter | None


def given_of(case: VocabularyCase, tensors: VocabularyTensors) -> Tensor:
    """Ids or hidden states, as they are handed in."""
    embeds = case.layer is VocabularyLayer.EMBEDDING
    given = torch.tensor(case.ids, dtype=torch.int64) if embeds else tensors.hidden.to(torch_dtype(case.dtype))
    return given.unsqueeze(0) if case.two_dimensions else given


def tensors_of(case: VocabularyCase) -> VocabularyTensors:
    """Integers of -1, 0 and 1, adapters without 0: 5 columns, rank 4 and a factor of 4 stay exact in bfloat16."""
    generator = torch.Generator().manual_seed(case.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).double()

    def signs(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator).double() * 2 - 1

    own = case.original if case.for_original else case.vocabulary

    def adapter(rank: int, values: Callable[..., Tensor] = signs) -> LayerAdapter:
        columns, rows = (own, case.width) if case.layer is VocabularyLayer.EMBEDDING else (case.width, own)
        return LayerAdapter((SubAdapter(values(rank, columns), values(rows, rank)),), scaling=2.0)

    adapters = tuple(adapter(rank) for _, rank in case.adapters)
    bias = draw(case.vocabulary) if case.bias else None
    weights = VocabularyWeights(draw(case.vocabulary, case.width), bias)
    hidden = draw(len(case.tokens), case.width)
    former = adapter(case.max_rank, poison) if case.reused else None
    return VocabularyTensors(weights, adapters, hidden, former)
