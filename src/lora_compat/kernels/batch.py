"""Which adapter slot serves which token of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

NO_ADAPTER = -1


class TokenTiles(NamedTuple):
    """The tokens with an adapter, cut into tiles that each hold tokens of one slot only.

    ``slots`` is ``[tiles]`` and ``tokens`` ``[tiles, block]``, both int32; ``NO_ADAPTER`` fills a short tile.
    """

    slots: Tensor
    tokens: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """The token → slot map of one batch, with what every kernel needs of it computed once.

    ``slots`` is the host's copy, ``token_slots`` the device's (int32, shape ``[tokens]``); a token without an
    adapter has ``NO_ADAPTER``. ``groups`` pairs each slot in use with the ascending indices (int64) of its
    tokens.
    """

    slots: tuple[int, ...]
    token_slots: Tensor
    groups: tuple[tuple[int, Tensor], ...] = field(repr=False)
    _tiles: dict[int, TokenTiles] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, slots: Sequence[int], device: torch.device | str = "cpu") -> TokenBatch:
        """Builds the batch from one slot index per token."""
        members: dict[int, list[int]] = {}
        for token, slot in enumerate(slots):
            if slot != NO_ADAPTER:
                members.setdefault(slot, []).append(token)
        groups = tuple((slot, torch.tensor(members[slot], device=device)) for slot in sorted(members))
        return cls(tuple(slots), torch.tensor(slots, dtype=torch.int32, device=device), groups)

    @property
    def active(self) -> bool:
        """Whether any token has an adapter."""
        return bool(self.groups)

    @property
    def mixed(self) -> bool:
        """Whether its tokens differ in which slot serves them, so that their order matters."""
        return len(set(self.slots)) > 1

    @property
    def largest_group(self) -> int:
        """How many tokens the busiest slot serves."""
        return max((len(tokens) for _, tokens in self.groups), default=0)

    @property
    def adapted(self) -> int:
        """How many tokens have an adapter."""
        return sum(len(tokens) for _, tokens in self.groups)

    def tiles(self, block: int) -> TokenTiles:
        """Tiles of ``block`` tokens, cut at the first call: make that before a CUDA graph is captured."""
        if block not in self._tiles:
            self._tiles[block] = self._cut(block)
        return self._tiles[block]

    def _cut(self, block: int) -> TokenTiles:
        device = self.token_slots.device
        rows = [pad(tokens, (0, -len(tokens) % block), value=NO_ADAPTER) for _, tokens in self.groups]
        slots = [slot for slot, tokens in self.groups for _ in range(0, len(tokens), block)]
        tokens = torch.cat(rows) if rows else torch.empty(0, device=device)
        return TokenTiles(
            torch.tensor(slots, dtype=torch.int32, device=device), tokens.to(torch.int32).view(-1, block)
        )

    def __len__(self) -> int:
        return len(self.slots)
