"""Questions about the dummy warm-up rank."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from strategies.choices import mostly
from strategies.codec import Spec

MANY_MODULES = (5, 6, 7, 8, 9, 15, 16, 17, 32, 33)
# Groups of different sizes share one model (expert, attention and context parallelism), so the parts of different
# modules need not divide each other: 4 and 6 need 12, which neither the largest nor the product says.
PARTS = (1, 2, 4, 8, 16, 32, 3, 6, 12)


@dataclass(frozen=True, slots=True, repr=False)
class RankQuestion(Spec):
    """Which rank to warm up with: the default, the largest, and into how many parts each module cuts it."""

    default: int = 8
    max_lora_rank: int = 8
    shards: tuple[int, ...] = (1,)


def rank_questions(
    *, parts: tuple[int, ...] = PARTS, max_ranks: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 320, 512, 1)
) -> SearchStrategy[RankQuestion]:
    """Questions; shrinks to one module that cuts nothing.

    Args:
        parts: into how many parts a module may cut the rank.
        max_ranks: values of ``max_lora_rank``.
    """
    return st.builds(
        RankQuestion,
        default=st.just(8),
        max_lora_rank=st.sampled_from(max_ranks),
        shards=st.builds(
            _of_modules,
            mostly((0,), MANY_MODULES, "modules"),
            st.lists(st.sampled_from(parts), min_size=1, max_size=4),
        ),
    )


def _of_modules(count: int, shards: list[int]) -> tuple[int, ...]:
    """At least ``count`` modules: as many like the first as it takes, then the others."""
    return (*shards[:1] * (count - len(shards)), *shards)
