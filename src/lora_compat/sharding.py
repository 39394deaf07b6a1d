"""`ShardPlan`: which part of a layer, and of its adapters, one tensor-parallel rank owns. Nothing else knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lora_compat.bound_loaders import Loader, own_loader
from lora_compat.checkpoint_shards import ShardingError
from lora_compat.families import registry
from lora_compat.family import Family
from lora_compat.own_loaders import OwnLoader

_OF_QKV: tuple[tuple[int | str, ...], ...] = (("q",), ("k",), ("v",))


@dataclass(frozen=True, slots=True)
class OutputSlice:
    """One output of a layer: how many rows the checkpoint has, and which of them this rank holds."""

    size: int
    rows: Sequence[int]

    @property
    def local_size(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What one rank owns of a layer's weight ``[out, in]``, of LoRA A ``[rank, in]`` and of LoRA B ``[out, rank]``.

    ``slices`` partitions the local output rows in order. With ``fully_sharded`` the adapters are cut once more:
    layers that shard their output cut the rank dimension of A and gather what it yields; layers that shard their
    input cut the output rows of B. A layer with a weight loader of its own has its B (and, row-parallel, its A) cut
    by that `loader`, which is also asked how many checkpoint rows each slice has. `local` adapters are this rank's
    part when they come, and only what ``fully_sharded`` cuts is cut.
    """

    family: Family
    tp_rank: int
    tp_size: int
    fully_sharded: bool
    columns: range
    slices: tuple[OutputSlice, ...]
    loader: Callable[[Tensor, int], Tensor] | None = None
    local: bool = False

    @classmethod
    def of(cls, layer: nn.Module, *, fully_sharded: bool = False) -> ShardPlan:
        """Reads the plan off a built layer of any registered family.

        Raises:
            UnsupportedLayerError: the layer belongs to no family.
            LoaderError: which weight loader fills its weight cannot be told.
            ShardingError: which rows of its adapters a rank needs cannot be told.
        """
        base, family, _ = registry.require(layer)
        built: Any = layer
        if hasattr(type(layer), "shard_plan"):  # a layer whose rows are laid out in a way of its own
            own: ShardPlan = built.shard_plan(fully_sharded=fully_sharded)
            return own
        rank, size = int(built.tp_rank), int(built.tp_size)
        columns = range(int(built.input_size))
        if family is Family.ROW:
            columns = part_of(len(columns), rank, size)
        plan = cls(family, rank, size, fully_sharded and size > 1, columns, _slices(layer, family, rank))
        load = own_loader(layer, base)
        if load is not None:
            return _as_loaded(plan, layer, base, load)
        declared = sum(map(int, built.output_partition_sizes))
        if sum(plan.slice_sizes) != declared:
            raise ShardingError(
                layer, f"it declares {declared} rows, of which its family's loader fills {sum(plan.slice_sizes)}"
            )
        return plan

    @property
    def lora_width(self) -> int:
        """Columns of a LoRA A that comes."""
        return len(self.columns) * (self.tp_size if self.family is Family.ROW and not self.local else 1)

    @property
    def slice_sizes(self) -> tuple[int, ...]:
        """Local output rows of each slice."""
        return tuple(part.local_size for part in self.slices)

    @property
    def rank_shards(self) -> int:
        """Into how many parts the LoRA rank is cut (RANK-1)."""
        return self.tp_size if self.fully_sharded and self.family.shards_output else 1

    def local_rank(self, max_rank: int) -> int:
        """Rows of A in a slot of ``max_rank``; rounded up, so that any rank fits any TP size."""
        return -(-max_rank // self.rank_shards)

    @property
    def expanded(self) -> range:
        """The local output columns that this rank's B produces."""
        total = sum(self.slice_sizes)
        if self.fully_sharded and self.family is Family.ROW:
            return range(self.tp_rank * total // self.tp_size, (self.tp_rank + 1) * total // self.tp_size)
        return range(total)

    @property
    def expanded_slice_sizes(self) -> tuple[int, ...]:
        """Like `slice_sizes`, for the columns in `expanded`."""
        return self.slice_sizes if len(self.slices) > 1 else (len(self.expanded),)

    def shard_a(self, lora_a: Tensor, max_rank: int) -> Tensor:
        """This rank's part of LoRA A ``[rank, in]``, cut by the slot's rank and not the adapter's (T16)."""
        if self.family is Family.ROW:
            lora_a = self.loader(lora_a, 0) if self.loader else take(lora_a, self.columns, dim=1)
        if self.rank_shards > 1:
            rows = self.local_rank(max_rank)
            lora_a = lora_a[self.tp_rank * rows : (self.tp_rank + 1) * rows]
        return lora_a

    def shard_b(self, lora_b: Tensor, index: int) -> Tensor:
        """This rank's rows of LoRA B ``[out, rank]`` of output slice ``index``."""
        if self.family is Family.ROW:
            return take(lora_b, self.expanded, dim=0)
        if self.loader is None:
            return take(lora_b, self.slices[index].rows, dim=0)
        start = sum(self.slice_sizes[:index])
        return self.loader(lora_b, index)[start : start + self.slices[index].local_size]


def part_of(total: int, rank: int, size: int) -> range:
    """Rank ``rank``'s equal part of ``total``."""
    return range(rank * (total // size), (rank + 1) * (total // size))


def take(tensor: Tensor, rows: Sequence[int], *, dim: int) -> Tensor:
    """The ``rows`` along ``dim``; a view where they are a range."""
    if isinstance(rows, range):
        return tensor.narrow(dim, rows.start, len(rows))
    return tensor.index_select(dim, torch.tensor(rows, device=tensor.device))


def _slices(layer: Any, family: Family, rank: int) -> tuple[OutputSlice, ...]:
    sizes = [int(size) for size in layer.output_partition_sizes]
    if not family.shards_output:
        return tuple(OutputSlice(size, range(size)) for size in sizes)
    if family is not Family.QKV:
        tp_size = int(layer.tp_size)
        return tuple(OutputSlice(size * tp_size, range(rank * size, (rank + 1) * size)) for size in sizes)
    heads, kv_heads = int(layer.total_num_heads), int(layer.total_num_kv_heads)
    kv_rank = rank // int(layer.num_kv_head_replicas)
    return tuple(
        OutputSlice(
            size // local_heads * total,
            range(owner * size, (owner + 1) * size),
        )
        for size, local_heads, total, owner in zip(
            sizes,
            (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads),
            (heads, kv_heads, kv_heads),
            (rank, kv_rank, kv_rank),
            strict=False,  # a class may pack more behind them; its loader says what
        )
    )


def shard_id(family: Family, index: int) -> tuple[int | str, ...]:
    """The extra argument that a weight loader of ``family`` takes for output slice ``index``, if any."""
    if family is Family.MERGED_COLUMN:
        return (index,)
    return _OF_QKV[index] if family is Family.QKV else ()


def _as_loaded(plan: ShardPlan, layer: nn.Module, base: type[nn.Module], load: Loader) -> ShardPlan:
    """The plan of a layer with a weight loader of its own: the slices that ``load`` fills, cut by it.

    Raises:
        ShardingError: what the loader does cannot be followed.
    """
    if plan.family is Family.ROW:
        rows = OwnLoader(layer, base, load, len(plan.columns))
        return replace(plan, loader=lambda tensor, index: rows.written(tensor, ()))
    own = OwnLoader(layer, base, load)
    declared = {shard_id(plan.family, index): part.rows for index, part in enumerate(plan.slices)}
    usual = [*declared, *(one for one in _OF_QKV if plan.family is Family.QKV and one not in declared)]
    # A class of another family that packs several outputs all the same has names for them.
    groups = [usual, [*usual, *own.named_ids]] if plan.family.packed else [own.named_ids, usual]
    for ids in groups:
        shards = own.shards(ids, declared)
        if shards is not None:
            slices = tuple(OutputSlice(one.size, one.rows) for one in shards)
            return replace(plan, slices=slices, loader=lambda tensor, index: own.written(tensor, shards[index].id))
    raise own.refusal()
