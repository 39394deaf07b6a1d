"""Bugs of packed layers: which sub-adapter belongs to which slice (MATH-8)."""

from __future__ import annotations

from lora_compat import slots
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.slots import SlotBuffers
from tests.mutants.planting import plant


def with_parts(adapter, parts):
    return LayerAdapter(tuple(parts), adapter.scaling)


@plant(
    SlotBuffers,
    "load",
    origin="T1, vllm #10450",
    clauses="MATH-8 MATH-1",
    anomalies="shard-misplaced slices-swapped delta-misplaced",
)
def fused_b_cut_as_one_block(original):
    """A fused adapter's B is cut into one block per rank, as if the layer had a single output."""

    def load(self, slot, adapter):
        (part, *others) = adapter.parts
        plan = self.plan
        if others or len(plan.slices) == 1 or plan.tp_size == 1:
            return original(self, slot, adapter)
        local = sum(plan.slice_sizes)
        block = part.lora_b.roll(-plan.tp_rank * local, 0)[:local]
        moved, start = part.lora_b.clone(), 0
        for piece, own in zip(block.split(list(plan.slice_sizes)), plan.slices, strict=True):
            moved[start + own.rows.start : start + own.rows.stop] = piece
            start += own.size
        return original(self, slot, with_parts(adapter, [SubAdapter(part.lora_a, moved)]))

    return load


@plant(SlotBuffers, "load", origin="T7, vllm #4609", clauses="MATH-8 MATH-1", anomalies="raised")
def absent_member_unbound(original):
    """A packed layer with an absent sub-adapter is an unbound local variable."""

    def load(self, slot, adapter):
        if None in adapter.parts:
            raise UnboundLocalError("cannot access local variable 'lora_b' where it is not associated with a value")
        return original(self, slot, adapter)

    return load


@plant(
    SlotBuffers, "load", origin="T8, T9, vllm #10352", clauses="MATH-8", anomalies="shard-misplaced delta-misplaced"
)
def nothing_is_cut_where_a_member_is_absent(original):
    """With an absent sub-adapter no B is cut: every rank takes the first rows that fit."""

    def load(self, slot, adapter):
        plan = self.plan
        if None not in adapter.parts or not plan.family.shards_output or plan.loader is not None:
            return original(self, slot, adapter)
        parts = [
            part and SubAdapter(part.lora_a, part.lora_b.roll(own.rows.start, 0))
            for part, own in zip(adapter.parts, plan.slices, strict=True)
        ]
        return original(self, slot, with_parts(adapter, parts))

    return load


@plant(SlotBuffers, "load", origin="absent members", clauses="MATH-8", anomalies="slices-swapped")
def absent_members_shift_the_others(original):
    """Present sub-adapters close ranks, so each lands in the slice of the absent one before it."""

    def load(self, slot, adapter):
        present = [part for part in adapter.parts if part is not None]
        sizes = [own.size for own in self.plan.slices]
        shifted = [*present, *[None] * (len(adapter.parts) - len(present))]
        fits = len(shifted) == len(sizes) and all(
            part is None or len(part.lora_b) == size for part, size in zip(shifted, sizes, strict=True)
        )
        return original(self, slot, with_parts(adapter, shifted) if fits else adapter)

    return load


@plant(slots, "assign_parts", origin="T11, vllm #36372", clauses="MATH-1 MATH-2", anomalies="raised")
def one_name_per_slice(original):
    """A packed list that is shorter than the outputs is an IndexError."""

    def assign_parts(parts, sizes, *, module=""):
        if 1 < len(parts) < len(sizes):
            raise IndexError("list index out of range")
        return original(parts, sizes, module=module)

    return assign_parts


# Of a whole model, whose manager passes on why an adapter cannot be loaded, it is `refused-wrongly`.
@plant(slots, "assign_parts", origin="T14, vllm #51409", clauses="MATH-8 MATH-1", anomalies="raised refused-wrongly")
def no_fused_tensors(original):
    """One tensor for the whole packed layer is an IndexError."""

    def assign_parts(parts, sizes, *, module=""):
        if len(parts) == 1 and len(sizes) > 1:
            raise IndexError("tuple index out of range")
        return original(parts, sizes, module=module)

    return assign_parts


@plant(
    slots,
    "assign_parts",
    origin="over-strict checks",
    clauses="MATH-8 MATH-1",
    anomalies="raised adapter-refused refused-wrongly",
)
def absent_members_refused(original):
    """An adapter for some members only is refused as ambiguous."""

    def assign_parts(parts, sizes, *, module=""):
        if None in parts:
            raise slots.AdapterShapeError(module, "LoRA B", expected=f"{len(sizes)} parts", received="fewer")
        return original(parts, sizes, module=module)

    return assign_parts


@plant(SlotBuffers, "load", origin="order of the packed list", clauses="MATH-1 MATH-8", anomalies="slices-swapped")
def packed_list_read_backwards(original):
    """The packed names are laid over the slices from the last to the first."""

    def load(self, slot, adapter):
        sizes = [own.size for own in self.plan.slices]
        same = len(adapter.parts) == len(sizes) and sizes == sizes[::-1]
        return original(self, slot, with_parts(adapter, adapter.parts[::-1]) if same else adapter)

    return load


@plant(SlotBuffers, "load", origin="fused A", clauses="MATH-8 MATH-1", anomalies="delta-incomplete")
def fused_a_for_the_first_slice_only(original):
    """A fused adapter's A is written for the first slice only."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        if len(adapter.parts) == 1:
            self.lora_a[slot, 1:] = 0

    return load


@plant(SlotBuffers, "load", origin="the last slice", clauses="MATH-1 MATH-2", anomalies="delta-incomplete")
def the_last_of_four_slices_is_lost(original):
    """A layer of four slices loses the last one's B."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        if len(self.plan.slices) > 3:
            self.lora_b[slot, -self.plan.slice_sizes[-1] :] = 0

    return load


@plant(
    SlotBuffers,
    "load",
    origin="k and v alike",
    clauses="MATH-1 MATH-2 MATH-12",
    anomalies="slices-swapped delta-misplaced",
)
def v_takes_the_a_of_k(original):
    """The last of three slices is served the A of the one before it."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        if len(self.plan.slices) == 3 and len(adapter.parts) == 3 and None not in adapter.parts:
            self.lora_a[slot, 2] = self.lora_a[slot, 1]

    return load


@plant(
    SlotBuffers,
    "load",
    origin="uneven slices",
    clauses="MATH-1 MATH-8",
    anomalies="slices-swapped shard-misplaced delta-misplaced",
)
def slices_of_equal_size(original):
    """B's rows are laid out as if all slices had the same size."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        sizes = self.plan.slice_sizes
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            self.lora_b[slot] = self.lora_b[slot].roll(sum(sizes) // 2 - sizes[0], 0)

    return load


@plant(SlotBuffers, "load", origin="only fused", clauses="MATH-8 MATH-12", anomalies="scale-twice")
def fused_adapters_scaled_while_loading_too(original):
    """A fused adapter has its scaling folded into B, and applied again."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        if len(adapter.parts) == 1 and len(self.plan.slices) > 1:
            self.lora_b[slot] *= adapter.scaling

    return load
