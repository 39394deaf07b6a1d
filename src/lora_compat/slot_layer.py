"""`SlotLayer`: what layers have in common whose adapters are in `SlotBuffers` and are added by a `LoRADelta`."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_compat.adapters import LayerAdapter
from lora_compat.delta import NO_TOKENS, LoRADelta
from lora_compat.kernels import TokenBatch
from lora_compat.sharding import ShardPlan
from lora_compat.slots import SlotBuffers


class SlotLayer:
    """Slots, and a batch that says which of them serves which token."""

    slots: SlotBuffers
    delta: LoRADelta

    @property
    def plan(self) -> ShardPlan:
        """What this rank owns of an adapter."""
        return self.slots.plan

    @property
    def rank_shards(self) -> int:
        """Into how many parts this layer cuts the LoRA rank."""
        return self.plan.rank_shards

    @property
    def max_loras(self) -> int:
        """How many slots there are."""
        return self.slots.max_loras

    @property
    def max_rank(self) -> int:
        """The largest rank of an adapter."""
        return self.slots.max_rank

    @property
    def lora_device(self) -> torch.device:
        """Where the slots are."""
        return self.slots.lora_a.device

    def check(self, adapter: LayerAdapter) -> None:
        """Whether ``adapter`` would load into any slot; see `SlotBuffers.check`."""
        self.slots.check(adapter)

    def saved(self, slot: int) -> tuple[Tensor, ...]:
        """A copy of what ``slot`` holds, for `restore`."""
        return self.slots.saved(slot)

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Puts back what `saved` copied."""
        self.slots.restore(slot, saved)

    def set_lora(self, slot: int, adapter: LayerAdapter) -> None:
        """Loads ``adapter`` (unsharded, unless the plan is `ShardPlan.local`) into ``slot``.

        Raises:
            SlotError, AdapterShapeError, AmbiguousPartsError: see `SlotBuffers.load`; the slot is untouched.
        """
        self.slots.load(slot, adapter)

    def reset_lora(self, slot: int) -> None:
        """Empties ``slot``."""
        self.slots.reset(slot)

    def set_batch(self, batch: TokenBatch | None) -> None:
        """Selects which slot serves each token of the next forwards; None: no adapters."""
        self.delta.batch = NO_TOKENS if batch is None else batch
