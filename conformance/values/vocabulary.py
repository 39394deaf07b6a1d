"""The numbers of a case over a vocabulary, and what merged weights give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.implementations.vocabulary import VocabularyWeights
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyTensors:
    """The unsharded tensors of a case, float64."""

    weights: VocabularyWeights
    adapters: tuple[LayerAdapter, ...]
    hidden: Tensor


def tensors_of(case: VocabularyCase) -> VocabularyTensors:
    """Integers of -1, 0 and 1, adapters without 0: 5 columns, rank 4 and a factor of 4 stay exact in bfloat16."""
    generator = torch.Generator().manual_seed(case.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).double()

    def signs(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator).double() * 2 - 1

    embeds = case.layer is VocabularyLayer.EMBEDDING
    adapters = []
    for _, rank in case.adapters:
        ids = case.original if case.for_original else case.vocabulary
        a, b = (signs(rank, ids), signs(case.width, rank)) if embeds else (signs(rank, case.width), signs(ids, rank))
        adapters.append(LayerAdapter((SubAdapter(a, b),), scaling=2.0))
    bias = draw(case.vocabulary) if case.bias else None
    return VocabularyTensors(
        VocabularyWeights(draw(case.vocabulary, case.width), bias),
        tuple(adapters),
        draw(len(case.tokens), case.width),
    )
