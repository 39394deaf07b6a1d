"""How many cases of a clause are drawn, and from which seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

PROFILES = {"quick": 20, "default": 250, "thorough": 1000}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a clause one shard runs: its part of the examples, drawn from a seed of its own."""

    max_examples: int
    seed: int
    shard: int = 0
    shards: int = 1

    @property
    def examples(self) -> int:
        """This shard's part of ``max_examples``, at least one."""
        return max(1, -(-self.max_examples // self.shards))

    def seed_for(self, clause: str, name: str) -> int:
        """A seed that no other clause or shard has."""
        digest = hashlib.sha256(f"{self.seed}/{clause}/{name}/{self.shard}".encode()).digest()
        return int.from_bytes(digest[:8], "big")
