"""Which adapter slot serves which token of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

NO_ADAPTER = -1


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """The token → slot map of one batch, with what every kernel needs of it computed once.

    ``slots`` is the host's copy, ``token_slots`` the device's (int32, shape ``[tokens]``); a token without an
    adapter has ``NO_ADAPTER``. ``groups`` pairs each slot in use with the ascending indices (int64) of its tokens.
    """

    slots: tuple[int, ...]
    token_slots: Tensor
    groups: tuple[tuple[int, Tensor], ...] = field(repr=False)

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

    def __len__(self) -> int:
        return len(self.slots)
