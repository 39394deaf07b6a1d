"""Which adapter serves which token: the maps of a model's towers, by adapter, and the slots they come to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from lora_compat.kernels import NO_ADAPTER, TokenBatch
from lora_compat.lora_layers import LoRALayer

REST = ""  # the tower of every module that is in no other


class TokenMaps:
    """For each tower, a part of the model with tokens of its own, the adapter of each token.

    To a layer that an adapter has nothing for (``filled`` says which slots have), it is none: the layer may then be of
    other tokens, or use its weight in ways that no adapter can be added to.
    """

    def __init__(
        self, layers: Mapping[str, LoRALayer], towers: Sequence[str], filled: Mapping[str, Collection[int]]
    ) -> None:
        self.layers, self.filled = layers, filled
        self.towers = {tower: _in_tower(layers, tower, towers) for tower in (*towers, REST)}
        self.ids: dict[str, tuple[int | None, ...]] = {}

    def assign(self, tower: str, ids: Sequence[int | None]) -> None:
        """Keeps a tower's map for the next `select`.

        Raises:
            ValueError: there is no such tower.
        """
        if tower not in self.towers:
            raise ValueError(f"no tower {tower!r}: give one of {', '.join(map(repr, self.towers))}")
        self.ids[tower] = tuple(ids)

    def select(self, holders: Sequence[int | None]) -> None:
        """Looks every map's ids up among the slots' holders: adapters may have moved since (M1)."""
        slot_of = {holder: slot for slot, holder in enumerate(holders) if holder is not None}
        for tower, ids in self.ids.items():
            slots = [NO_ADAPTER if one is None else slot_of.get(one, NO_ADAPTER) for one in ids]
            self.set_slots(self.towers[tower], slots)

    def set_slots(self, names: Sequence[str], slots: Sequence[int]) -> None:
        """Gives these layers the slot of each token; layers of one device with the same adapters share a batch."""
        batches: dict[tuple[torch.device, frozenset[int]], TokenBatch] = {}
        used = frozenset(slots) - {NO_ADAPTER}
        for name in names:
            device, live = self.layers[name].lora_device, used & frozenset(self.filled[name])
            if (device, live) not in batches:
                batches[device, live] = TokenBatch.of([one if one in live else NO_ADAPTER for one in slots], device)
            self.layers[name].set_batch(batches[device, live])


def _in_tower(layers: Mapping[str, LoRALayer], tower: str, towers: Sequence[str]) -> list[str]:
    """The layers of ``tower``, the most specific prefix deciding."""
    owners = {
        name: max((t for t in towers if name == t or name.startswith(t + ".")), key=len, default=REST)
        for name in layers
    }
    return [name for name, owner in owners.items() if owner == tower]
