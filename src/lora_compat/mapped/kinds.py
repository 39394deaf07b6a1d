"""What modules do with their parameters, as far as their classes say it; vLLM's are added once it is imported."""

from __future__ import annotations

import enum

from torch import nn

from lora_compat.experts import FusedMoE
from lora_compat.families import family_of
from lora_compat.vocabulary import ParallelLMHead, VocabParallelEmbedding

# Those that look up by ``quant_method.embedding``, and, embeddings by class, those that multiply instead.
embeddings: set[type[nn.Module]] = {VocabParallelEmbedding}
heads: set[type[nn.Module]] = {ParallelLMHead}
# Mixtures, and their methods that are handed tokens: the first dimension of every tensor is that of the tokens.
mixtures: dict[type[nn.Module], tuple[str, ...]] = {FusedMoE: ("forward",)}


class Kind(enum.Enum):
    """How a parameter is served."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    HEAD = "head"
    STACK = "stack"
    BARE = "bare"


def kind_of(module: nn.Module, attribute: str, dimensions: int) -> Kind | None:
    """How a parameter of that many dimensions can be served; None if in no way that is known."""
    known = family_of(module) is not None  # looks for what has been imported, too
    if token_wise(module):
        return Kind.STACK  # a bias for each expert, too
    if dimensions != 2:
        return None
    if attribute == "weight":
        if isinstance(module, tuple(heads)):
            return Kind.HEAD
        if isinstance(module, tuple(embeddings)) or type(module).forward is nn.Embedding.forward:
            return Kind.EMBEDDING
        if isinstance(module, nn.Embedding):
            return None
        if known or type(module).forward is nn.Linear.forward:
            return Kind.LINEAR
    return Kind.BARE


def token_wise(module: nn.Module) -> tuple[str, ...]:
    """The methods of a mixture of experts that are handed tokens; none of any other module."""
    return next((methods for cls, methods in mixtures.items() if isinstance(module, cls)), ())
