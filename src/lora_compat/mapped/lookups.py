"""What an embedding's weight does when it is used by anything but the embedding's own lookup."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from lora_compat.delta import LoRADelta
from lora_compat.embeddings import LoRAEmbedding
from lora_compat.weights import LoRAWeight, know_lora


class LookupGuard(LoRADelta):
    """Of a weight with adapters that are looked up: any other use is refused, but products get nothing.

    A head that is tied to an embedding multiplies with its weight, and the embedding's adapters are no business of it.
    """

    def __init__(self, embedding: LoRAEmbedding) -> None:
        self._embedding = weakref.ref(embedding)
        self.layer = embedding.name
        self.served = 0

    @property
    def active(self) -> bool:
        """Whether an adapter is looked up now."""
        embedding = self._embedding()
        return embedding is not None and embedding.batch.active

    def add_to(self, output: Tensor, x: Tensor) -> Tensor:
        """``output`` as it is."""
        return output

    def of_rows(self, x: Tensor, output_rows: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(*x.shape[:-1], len(output_rows), dtype=x.dtype, device=x.device)


def guard(embedding: LoRAEmbedding) -> None:
    """Has the weight of ``embedding`` refuse other uses, unless it knows of a head's adapters."""
    weight = embedding.base_layer.weight
    if isinstance(weight, torch.nn.Parameter) and not isinstance(weight, LoRAWeight):
        know_lora(weight, LookupGuard(embedding))
