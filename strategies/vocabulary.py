"""Cases of layers over a vocabulary: an embedding, or an LM head with its logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from strategies.cases import Dtype
from strategies.choices import mostly, numbers, sampled, sequences
from strategies.codec import Named, Spec
from strategies.groupings import batches


class VocabularyLayer(Named):
    """Which layer."""

    EMBEDDING = "embedding"
    LM_HEAD = "lm_head"


@dataclass(frozen=True, slots=True, repr=False)
class VocabularyCase(Spec):
    """A vocabulary of ``original`` ids and ``added`` ones, ``adapters`` as (slot, rank), and tokens.

    ``tokens`` has for each token the index of its adapter, or -1; ``ids`` its id, which may lie outside the
    vocabulary (embeddings only). ``multiplier`` is what the class's own forward multiplies embeddings with, or the
    scale of the logits. ``for_original`` says that the adapters were trained before ids were added. With ``reused``
    each of their slots held and served an adapter of the largest rank before, nothing but NaN. All other values are
    small integers, a pure function of ``seed``.
    """

    layer: VocabularyLayer = VocabularyLayer.EMBEDDING
    original: int = 1
    added: int = 0
    padding_size: int = 4
    width: int = 1
    bias: bool = False
    multiplier: int = 1
    tp_size: int = 1
    fully_sharded: bool = False
    max_loras: int = 1
    max_rank: int = 4
    adapters: tuple[tuple[int, int], ...] = ((0, 1),)
    for_original: bool = False
    tokens: tuple[int, ...] = (0,)
    ids: tuple[int, ...] = (0,)
    two_dimensions: bool = False
    reused: bool = False
    dtype: Dtype = Dtype.FLOAT32
    seed: int = 0

    @property
    def vocabulary(self) -> int:
        """All ids."""
        return self.original + self.added

    @property
    def token_slots(self) -> tuple[int, ...]:
        """The slot that serves each token, -1 for none."""
        return tuple(self.adapters[index][0] if index >= 0 else -1 for index in self.tokens)


MAX_RANK = 4


@cache
def vocabulary_cases(
    layer: VocabularyLayer, *, tp_sizes: tuple[int, ...] = (1, 2, 4)
) -> SearchStrategy[VocabularyCase]:
    """Cases of ``layer``; shrinks to one id, one rank, one adapter of rank 1, one token."""
    return _vocabulary_cases(layer, tp_sizes)


@composite
def _vocabulary_cases(draw: DrawFn, layer: VocabularyLayer, tp_sizes: tuple[int, ...]) -> VocabularyCase:
    embeds = layer is VocabularyLayer.EMBEDDING
    tp_size = draw(sampled(tp_sizes, "ranks"))
    original = draw(mostly(_SIZES, (63, 64, 65, 127, 128, 129), "original"))
    added = draw(sampled((0, 0, 1, 2, 5), "added"))
    max_loras, slots = draw(_slots)
    ranks = draw(
        sequences(tuple(range(1, MAX_RANK + 1)), min_size=len(slots), max_size=len(slots), what="adapter ranks")
    )
    # With an adapter, and with an id, more often than without: else a case in eight shows nothing.
    tokens = draw(batches((*range(len(slots)), *range(len(slots)), -1), few=8, none=True))
    rest = max(0, len(tokens) - 1)
    # One below, the first beyond, and one far beyond: the padding of some rank, or nobody's.
    vocabulary = original + added
    ids = (
        *range(vocabulary),
        *range(vocabulary),
        *range(vocabulary),
        *((-1, vocabulary, vocabulary + 40) if embeds else ()),
    )
    first = draw(numbers(vocabulary, "first id"))
    return VocabularyCase(
        layer=layer,
        original=original,
        added=added,
        padding_size=draw(sampled((4, 8, 16), "padding")),
        width=draw(mostly((1, 2, 3, 3, 5, 5, 5), (31, 32, 33, 64, 65), "width")),
        bias=not embeds and draw(sampled(_EITHER, "bias")),
        multiplier=draw(sampled((1, 2, 4), "multiplier")),
        tp_size=tp_size,
        fully_sharded=tp_size > 1 and draw(sampled(_EITHER, "fully sharded")),
        max_loras=max_loras,
        max_rank=MAX_RANK,
        adapters=tuple(zip(slots, ranks, strict=True)),
        for_original=embeds and added > 0 and draw(sampled(_EITHER, "for original")),
        tokens=tokens,
        ids=(first, *draw(sequences(ids, min_size=rest, max_size=rest, what="ids")))[: len(tokens)],
        two_dimensions=tokens != () and draw(sampled(_EITHER, "two dimensions")),
        reused=draw(sampled(_SELDOM, "reused slots")),
        dtype=draw(sampled((Dtype.FLOAT32, Dtype.BFLOAT16, Dtype.FLOAT16), "dtype")),
        seed=draw(numbers(64, "values")),
    )


_SIZES = (1, 2, 3, 5, 8, 9, 13, 17)
_EITHER = (False, True)
_SELDOM = (False, False, True)
_slots = sampled(
    tuple((total, slots) for total in (1, 2, 3) for count in (1, 2) for slots in permutations(range(total), count)),
    "slots",
)
