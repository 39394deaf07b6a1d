"""Bugs of slots: what a slot keeps of its former adapter, and which slot is written (MATH-4, MATH-5)."""

from __future__ import annotations

from lora_compat.adapters import LayerAdapter
from lora_compat.slots import SlotBuffers
from lora_compat.wrapper import LoRALinear
from tests.mutants.planting import plant


def keeping(original, name):
    """`SlotBuffers.load` that leaves what was beyond the new adapter's rank."""

    def load(self, slot, adapter):
        before = getattr(self, name)[slot].clone()
        original(self, slot, adapter)
        after = getattr(self, name)[slot]
        rank = max((part.rank for part in adapter.parts if part is not None), default=0)
        if (name == "lora_a" and self.plan.rank_shards == 1) or name == "lora_b":
            after[:, rank:] = before[:, rank:]

    return load


@plant(SlotBuffers, "load", origin="stale rows of a larger adapter", clauses="MATH-5", anomalies="stale-slot")
def padding_of_a_not_cleared(original):
    """A smaller adapter leaves the former one's last rows of A."""
    return keeping(original, "lora_a")


@plant(SlotBuffers, "load", origin="stale rows of a larger adapter", clauses="MATH-5", anomalies="stale-slot")
def padding_of_b_not_cleared(original):
    """A smaller adapter leaves the former one's last columns of B."""
    return keeping(original, "lora_b")


@plant(SlotBuffers, "load", origin="absent members", clauses="MATH-5", anomalies="stale-slot")
def absent_members_not_cleared(original):
    """The slices of absent sub-adapters keep the former adapter's."""

    def load(self, slot, adapter):
        before_a, before_b = self.lora_a[slot].clone(), self.lora_b[slot].clone()
        original(self, slot, adapter)
        if len(adapter.parts) == len(self.plan.slices):
            start = 0
            for index, (part, size) in enumerate(zip(adapter.parts, self.plan.slice_sizes, strict=True)):
                if part is None:
                    self.lora_a[slot, index] = before_a[index]
                    self.lora_b[slot, start : start + size] = before_b[start : start + size]
                start += size

    return load


@plant(SlotBuffers, "load", origin="M1", clauses="MATH-5", anomalies="stale-slot")
def a_slot_is_written_once(original):
    """A slot that is in use already is not written again."""

    def load(self, slot, adapter):
        if not bool(self.lora_b[slot].any()):
            original(self, slot, adapter)

    return load


@plant(SlotBuffers, "load", origin="M3", clauses="MATH-5", anomalies="stale-slot scale-wrong scale-dropped")
def the_first_scaling_stays(original):
    """The scaling of the first adapter loaded anywhere is kept for the slot's next ones."""

    def load(self, slot, adapter):
        before = float(self.scaling[slot])
        original(self, slot, adapter)
        if before:
            self.scaling[slot] = before

    return load


@plant(SlotBuffers, "reset", origin="vacuous reset check", clauses="MATH-5", anomalies="stale-slot")
def reset_does_nothing(original):
    """Emptying a slot leaves everything in it."""
    return lambda self, slot: None


@plant(SlotBuffers, "reset", origin="reset in part", clauses="MATH-5", anomalies="stale-slot")
def reset_clears_the_scaling_only(original):
    """An emptied slot keeps A and B, and is scaled by zero."""

    def reset(self, slot):
        self.scaling[slot] = 0

    return reset


@plant(SlotBuffers, "reset", origin="lazy resets", clauses="MATH-5", anomalies="stale-slot")
def reset_leaves_a(original):
    """An emptied slot keeps its A, whose NaN times zero is NaN."""

    def reset(self, slot):
        self.lora_b[slot] = 0
        self.scaling[slot] = 0

    return reset


@plant(SlotBuffers, "reset", origin="slot indices", clauses="MATH-5", anomalies="stale-slot")
def reset_of_the_first_slot(original):
    """Whichever slot is named, the first one is emptied."""
    return lambda self, slot: original(self, 0)


@plant(SlotBuffers, "load", origin="slot indices", clauses="MATH-1 MATH-2", anomalies="delta-dropped delta-incomplete")
def the_last_slot_is_never_written(original):
    """Of three slots the last is never written."""

    def load(self, slot, adapter):
        if slot < 2:
            original(self, slot, adapter)

    return load


@plant(SlotBuffers, "load", origin="slot indices", clauses="MATH-2", anomalies="wrong-slot delta-dropped")
def slots_share_their_last(original):
    """Slots from the second on are written to the second."""
    return lambda self, slot, adapter: (
        original(self, min(slot, 1), adapter) if slot < 2 else _both(self, slot, adapter, original)
    )


def _both(buffers, slot, adapter, load):
    load(buffers, slot, adapter)
    load(buffers, 1, adapter)


@plant(SlotBuffers, "load", origin="a slot of the largest rank", clauses="MATH-1 MATH-4", anomalies="scale-wrong")
def scaled_by_the_slots_rank(original):
    """The scaling is alpha over the slot's rank, not the adapter's."""

    def load(self, slot, adapter):
        rank = max((part.rank for part in adapter.parts if part is not None), default=1)
        original(self, slot, LayerAdapter(adapter.parts, adapter.scaling * rank / self.max_rank))

    return load


@plant(
    SlotBuffers,
    "load",
    origin="kernels of rank 16",
    clauses="MATH-1 MATH-5",
    anomalies="delta-incomplete delta-imprecise",
)
def rank_beyond_sixteen_is_lost(original):
    """Rows of A from the seventeenth on are not written."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        self.lora_a[slot, :, 16:] = 0

    return load


@plant(SlotBuffers, "load", origin="off by one", clauses="MATH-1 MATH-4", anomalies="delta-incomplete delta-dropped")
def the_last_row_of_a_full_slot(original):
    """Where an adapter fills its slot's rank to the last, its last row of A is lost."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        if any(part is not None and part.rank == self.max_rank for part in adapter.parts):
            self.lora_a[slot, :, -1] = 0

    return load


@plant(SlotBuffers, "load", origin="T10, vllm #20873", clauses="MATH-7", anomalies="adapter-written")
def scaling_folded_into_the_cached_adapter(original):
    """The scaling is folded into the caller's own B, so the next activation scales twice."""

    def load(self, slot, adapter):
        for part in adapter.parts:
            if part is not None:
                part.lora_b.mul_(adapter.scaling)
        original(self, slot, LayerAdapter(adapter.parts, 1.0))

    return load


@plant(SlotBuffers, "load", origin="T10, vllm #20873", clauses="MATH-7", anomalies="adapter-written")
def padding_written_into_the_adapter(original):
    """Loading zeroes the last row of the caller's A once it is copied."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        for part in adapter.parts:
            if part is not None and part.rank > 1:
                part.lora_a[-1] = 0

    return load


@plant(
    LoRALinear,
    "set_lora",
    origin="only the second activation",
    clauses="MATH-5",
    anomalies="stale-slot delta-doubled unexplained",
)
def the_second_activation_adds(original):
    """An adapter loaded into a slot in use is added to what is there."""

    def set_lora(self, slot, adapter):
        before = self.slots.lora_b[slot].clone()
        original(self, slot, adapter)
        self.slots.lora_b[slot] += before

    return set_lora
