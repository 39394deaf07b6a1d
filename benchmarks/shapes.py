"""The shapes that the kernels are timed at: a grid, shards of it, and shapes drawn as serving has them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import torch

NO_ADAPTER = -1
BYTES = 2  # of a bfloat16


@dataclass(frozen=True)
class Point:
    """One shape: x ``[tokens, k]``, ``slices`` of y, adapters of ``rank``; ``token_slots`` says whose a token is."""

    tokens: int
    slices: tuple[int, ...]
    rank: int
    slots: int
    k: int = 4096
    note: str = ""
    token_slots: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.token_slots:  # dealt at random
            generator = torch.Generator().manual_seed(self.tokens)
            dealt = torch.randint(self.slots, (self.tokens,), generator=generator)
            object.__setattr__(self, "token_slots", tuple(dealt.tolist()))

    @property
    def label(self) -> str:
        sizes = "+".join(map(str, self.slices))
        plural = "" if self.slots == 1 else "s"
        return f"{self.tokens} × {self.k} → {sizes}, rank {self.rank}, {self.slots} slot{plural}{self.note}"

    @property
    def adapted(self) -> int:
        """How many tokens have an adapter."""
        return sum(slot != NO_ADAPTER for slot in self.token_slots)

    @property
    def in_use(self) -> int:
        """How many slots have tokens."""
        return len(set(self.token_slots) - {NO_ADAPTER})

    @property
    def fullest(self) -> int:
        """Tokens of the slot that has most."""
        return max(Counter(slot for slot in self.token_slots if slot != NO_ADAPTER).values(), default=0)

    @property
    def weights(self) -> int:
        """Elements of one slot's A and B."""
        return len(self.slices) * self.rank * self.k + sum(self.slices) * self.rank

    @property
    def moved(self) -> int:
        """Bytes that must move: x, y read and written, A and B of the slots in use."""
        return BYTES * (self.adapted * (self.k + 2 * sum(self.slices)) + self.in_use * self.weights)

    @property
    def operations(self) -> int:
        """Multiplications and additions of bfloat16 that nobody can leave out."""
        return 2 * self.adapted * self.weights


TOKENS = (1, 16, 128, 1024, 8192)
SLICES = ((4096,), (4096, 1024, 1024), (14336, 14336))
ADAPTERS = ((16, 1), (64, 8))
GRID = [Point(t, s, rank, slots) for t in TOKENS for s in SLICES for rank, slots in ADAPTERS]
SHARDED = [
    Point(16, (1024, 256, 256), 64, 8, note=" (N / 4)"),
    Point(16, (3584, 3584), 16, 1, note=" (N / 4)"),
    Point(16, (4096,), 64, 8, k=3584, note=" (K / 4)"),
    Point(16, (4096,), 16, 1, k=1792, note=" (K / 8)"),
    Point(1024, (1024, 256, 256), 64, 8, note=" (N / 4)"),
    Point(1024, (1792, 1792), 16, 1, note=" (N / 8)"),
    Point(8192, (3584, 3584), 64, 8, note=" (N / 4)"),
    Point(8192, (4096,), 16, 1, k=1792, note=" (K / 8)"),
]

# hidden, query, key and value, feed-forward: Llama 3.2 1B and 3B, 3.1 8B and 70B, Qwen 2.5 0.5B (padded to 1024), 7B,
# 14B and 32B, Mistral Nemo, Gemma 2 9B.
MODELS = (
    (2048, 2048, 512, 8192),
    (3072, 3072, 1024, 8192),
    (4096, 4096, 1024, 14336),
    (8192, 8192, 1024, 28672),
    (1024, 1024, 256, 4864),
    (3584, 3584, 512, 18944),
    (5120, 5120, 1024, 13824),
    (5120, 5120, 1024, 27648),
    (5120, 4096, 1024, 14336),
    (3584, 4096, 2048, 14336),
)
LATENT = (7168, (1536, 576))  # the fused down projections of DeepSeek's latent attention, not sharded


def random_points(count: int, seed: int) -> list[Point]:
    """``count`` shapes as serving has them, the same for the same seed on every machine.

    Tokens are uniform in their logarithm, 1 to 8192; a third of them has no adapter, the others choose one of the
    slots by Zipf's law. The layers are those of `MODELS` on one to eight tensor-parallel ranks.
    """
    dice = random.Random(seed)
    return [_random_point(dice) for _ in range(count)]


def _random_point(dice: random.Random) -> Point:
    k, slices = _random_layer(dice)
    tokens = int(2 ** dice.uniform(0, 13.0001))
    slots = dice.choice((1, 2, 4, 8, 16, 32, 64))
    rank = dice.choice((8, 16, 32, 64, 128, 256))
    popularity = [1 / (place + 1) for place in range(slots)]
    chosen = dice.choices(range(slots), popularity, k=tokens)
    dealt = [NO_ADAPTER if dice.random() < 1 / 3 else slot for slot in chosen]
    dealt[0] = chosen[0]  # a batch without any adapter launches nothing
    return Point(tokens, slices, rank, slots, k, token_slots=tuple(dealt))


def _random_layer(dice: random.Random) -> tuple[int, tuple[int, ...]]:
    """K and the slice sizes of one rank."""
    if dice.random() < 0.08:
        return LATENT
    hidden, query, key, feed = dice.choice(MODELS)
    shards = dice.choice([count for count in (1, 2, 4, 8) if key // count >= 128])
    column = [(hidden, (query // shards, key // shards, key // shards)), (hidden, (feed // shards, feed // shards))]
    row = [(size // shards, (hidden,)) for size in (query, feed) if 1024 <= size // shards <= 8192]
    return dice.choice(column + row)
