"""Bugs that need more than one rank: which rows and columns a rank owns."""

from __future__ import annotations

import dataclasses

from lora_compat import sharding
from lora_compat.families import Family
from lora_compat.parallel import current_group
from lora_compat.sharding import OutputSlice, ShardPlan
from lora_compat.slots import SlotBuffers
from tests.mutants.planting import plant


@plant(ShardPlan, "of", origin="T4, vllm #25487", clauses="MATH-1 MATH-2", anomalies="raised shard-misplaced")
def disable_tp_is_overlooked(original):
    """A layer with disable_tp takes the rows and columns of its rank in the whole group."""

    def of(cls, layer, *, fully_sharded=False):
        plan = original(cls, layer, fully_sharded=fully_sharded)
        group = current_group()
        if not layer.disable_tp or group.size == 1:
            return plan
        slices = tuple(
            OutputSlice(part.size, range(group.rank * part.local_size, (group.rank + 1) * part.local_size))
            for part in plan.slices
        )
        return dataclasses.replace(plan, slices=slices)

    return of


@plant(sharding, "_slices", origin="a sum for a product", clauses="WRAP-1", anomalies="not-wrapped")
def heads_end_a_sum_further(original):
    """A rank's heads end at its number, one and their size added up; a plan of so many rows is refused."""

    def slices(layer, family, rank):
        found = original(layer, family, rank)
        if family is not Family.QKV:
            return found
        sizes = [part.local_size for part in found]
        ends = [part.rows.start // size + 1 + size for part, size in zip(found, sizes, strict=True)]
        return tuple(
            OutputSlice(part.size, range(part.rows.start, end)) for part, end in zip(found, ends, strict=True)
        )

    return slices


@plant(ShardPlan, "shard_b", origin="T5, vllm #27065", clauses="MATH-1", anomalies="raised")
def nothing_for_a_replicated_layer(original):
    """Slicing a replicated layer's B on several ranks gives None."""

    def shard_b(self, lora_b, index):
        if self.family is Family.REPLICATED and self.tp_size > 1:
            return None
        return original(self, lora_b, index)

    return shard_b


@plant(ShardPlan, "shard_b", origin="one rank's rows for all", clauses="MATH-1 MATH-6", anomalies="shard-misplaced")
def first_ranks_rows_of_b(original):
    """Every rank of a column-parallel layer takes the first rank's rows of B."""

    def shard_b(self, lora_b, index):
        if self.family is not Family.ROW and self.loader is None:
            return sharding.take(lora_b, range(self.slices[index].local_size), dim=0)
        return original(self, lora_b, index)

    return shard_b


@plant(ShardPlan, "shard_b", origin="ranks counted from the end", clauses="MATH-1 MATH-6", anomalies="shard-misplaced")
def ranks_in_reverse(original):
    """Rank r takes the rows of B that belong to the r-th rank from the end."""

    def shard_b(self, lora_b, index):
        if self.family.shards_output and self.loader is None:
            rows = self.slices[index].rows
            start = self.slices[index].size - rows.stop
            return sharding.take(lora_b, range(start, start + len(rows)), dim=0)
        return original(self, lora_b, index)

    return shard_b


@plant(
    sharding,
    "_slices",
    origin="P2, sglang #32584",
    clauses="MATH-1 MATH-2",
    anomalies="shard-misplaced delta-misplaced",
)
def kv_heads_dealt_in_turn(original):
    """With fewer KV heads than ranks, rank r takes KV head r modulo their number."""

    def slices(layer, family, rank):
        found = original(layer, family, rank)
        if family is not Family.QKV or layer.num_kv_head_replicas == 1:
            return found
        owner = rank % layer.total_num_kv_heads
        moved = [
            OutputSlice(part.size, range(owner * part.local_size, (owner + 1) * part.local_size)) for part in found[1:]
        ]
        return found[0], *moved

    return slices


@plant(sharding, "_slices", origin="KV replicas", clauses="MATH-1 MATH-2", anomalies="shard-misplaced delta-misplaced")
def every_rank_has_the_first_kv_head(original):
    """Replicated KV heads are taken for one and the same."""

    def slices(layer, family, rank):
        found = original(layer, family, rank)
        if family is not Family.QKV or layer.num_kv_head_replicas == 1:
            return found
        return found[0], *(OutputSlice(part.size, range(part.local_size)) for part in found[1:])

    return slices


@plant(ShardPlan, "shard_a", origin="P3, lorax #47", clauses="MATH-1 MATH-6", anomalies="shard-misplaced")
def first_ranks_columns_of_a(original):
    """Every rank of a row-parallel layer takes the first rank's columns of A."""

    def shard_a(self, lora_a, max_rank):
        if self.family is Family.ROW and self.loader is None:
            return lora_a[:, : len(self.columns)]
        return original(self, lora_a, max_rank)

    return shard_a


@plant(ShardPlan, "shard_a", origin="P3", clauses="MATH-1 MATH-6", anomalies="shard-misplaced")
def columns_of_a_dealt_in_turn(original):
    """A row-parallel rank takes every tp-th column of A instead of a block."""

    def shard_a(self, lora_a, max_rank):
        if self.family is Family.ROW and self.loader is None:
            return lora_a[:, self.tp_rank :: self.tp_size]
        return original(self, lora_a, max_rank)

    return shard_a


@plant(
    ShardPlan,
    "shard_a",
    origin="T16, vllm #31994",
    clauses="MATH-1 MATH-4",
    anomalies="shard-misplaced raised delta-incomplete",
)
def a_cut_by_the_adapters_rank(original):
    """A fully sharded A is cut by the adapter's rank, while the slot's rank decides where its rows belong."""

    def shard_a(self, lora_a, max_rank):
        return original(self, lora_a, lora_a.shape[0])

    return shard_a


@plant(
    SlotBuffers,
    "load",
    origin="ranks that tp_size does not divide",
    clauses="MATH-1 MATH-4",
    anomalies="delta-incomplete delta-dropped",
)
def remainder_of_the_rank_lost(original):
    """A rank that the TP size does not divide is rounded down: the last rows of A are lost."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        kept = self.max_rank // self.plan.rank_shards
        self.lora_a[slot, :, kept:] = 0

    return load


@plant(ShardPlan, "expanded", origin="sharded-B offset", clauses="MATH-1 MATH-6", anomalies="shard-misplaced")
def every_rank_expands_the_first_columns(original):
    """Fully sharded and row-parallel, every rank adds into the first rank's output columns."""

    def expanded(self):
        columns = original(self)
        return range(len(columns)) if self.fully_sharded else columns

    return expanded
