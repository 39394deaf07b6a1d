"""What merged weights give: a case of a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from conformance.values.vocabulary import VocabularyTensors
from strategies.vocabulary import VocabularyCase, VocabularyLayer


def dense(case: VocabularyCase, tensors: VocabularyTensors, *, adapted: bool = True) -> Tensor:
    """What merged weights give, without any layer: rows of ``W + s·B·A``, zeros outside the vocabulary, or logits."""
    rows = []
    for index, (adapter, token_id) in enumerate(zip(case.tokens, case.ids, strict=True)):
        weight = tensors.weights.weight.clone()
        if adapter >= 0 and adapted:
            part = tensors.adapters[adapter].parts[0]
            assert part is not None
            delta = 2.0 * (part.lora_b @ part.lora_a)
            delta = delta.t() if case.layer is VocabularyLayer.EMBEDDING else delta
            weight[: delta.shape[0]] += delta
        if case.layer is VocabularyLayer.EMBEDDING:
            known = 0 <= token_id < case.vocabulary
            rows.append(weight[token_id] if known else torch.zeros(case.width, dtype=torch.float64))
        else:
            bias = 0.0 if tensors.weights.bias is None else tensors.weights.bias
            rows.append(weight @ tensors.hidden[index] + bias)
    width = case.width if case.layer is VocabularyLayer.EMBEDDING else case.vocabulary
    return torch.stack(rows) * case.multiplier if rows else torch.zeros(0, width, dtype=torch.float64)
