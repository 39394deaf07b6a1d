"""Mistakes of adapters that are cut over ranks, as the tensors with which a right implementation would give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from conformance.judging.anomalies import constant, moved
from conformance.values.linear import CaseTensors, packed_outputs
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.families import Family
from strategies.cases import Case

PerRank = Callable[[int], CaseTensors]
AdaptersOf = Callable[[int], tuple[LayerAdapter, ...]]
Change = Callable[[SubAdapter], SubAdapter]


def rank_mistakes(case: Case, tensors: CaseTensors) -> Iterator[tuple[str, PerRank]]:
    """Mistakes of sharded adapters, as tensors that differ from rank to rank."""
    ranks = case.layer_tp_size
    if ranks == 1:
        return
    if case.layer.family is Family.ROW:
        yield "shard-misplaced", lambda rank: _changed(tensors, _own_columns(ranks, rank, 0))
        yield "shard-misplaced", lambda rank: _changed(tensors, _own_columns(ranks, rank, (rank + 1) % ranks))
        yield "shard-misplaced", lambda rank: _changed(tensors, dealt_columns(ranks))
        if case.fully_sharded:
            rows = sum(case.layer.output_sizes)
            yield "gather-skipped", lambda rank: _changed(tensors, _own_rows(rows, ranks, rank))
            yield "shard-misplaced", lambda rank: _changed(tensors, first_rows(rows, ranks, of_each=True))
            yield "shard-misplaced", lambda rank: _changed(tensors, first_rows(rows, ranks, of_each=False))
        return
    others = [moved(shift, ranks) for shift in range(1, ranks)]
    sources: list[Callable[[int], int]] = [constant(0), lambda rank: ranks - 1 - rank, *others]
    for source in sources:
        elsewhere = _rows_of_other_ranks(case, tensors, source)
        if elsewhere is not None:
            yield "shard-misplaced", constant(elsewhere)
    yield "shard-misplaced", lambda rank: _changed(tensors, _one_block(case.layer.output_sizes, ranks, rank))
    if case.fully_sharded:
        for name, adapters_of in gathered_mistakes(case.max_rank, ranks, tensors.adapters):
            yield name, partial(_with_adapters, tensors, adapters_of)


def _with_adapters(tensors: CaseTensors, adapters_of: AdaptersOf, rank: int) -> CaseTensors:
    return replace(tensors, adapters=adapters_of(rank))


def _rows_of_other_ranks(case: Case, tensors: CaseTensors, source: Callable[[int], int]) -> CaseTensors | None:
    """B as if every rank had the rows that ``source`` says of each output; None where the ranks do not divide them."""
    ranks, sizes = case.layer_tp_size, case.layer.output_sizes
    if any(size % ranks for size in sizes):
        return None
    adapters = []
    for adapter in tensors.adapters:
        covered = [sizes] if len(adapter.parts) == 1 else packed_outputs(case)
        parts: list[SubAdapter | None] = []
        for part, outputs in zip(adapter.parts, covered, strict=True):
            if part is None:
                parts.append(None)
                continue
            slices = [rows.chunk(ranks) for rows in part.lora_b.split(list(outputs))]
            elsewhere = [rows[source(rank)] for rows in slices for rank in range(ranks)]
            parts.append(SubAdapter(part.lora_a, torch.cat(elsewhere)))
        adapters.append(LayerAdapter(tuple(parts), adapter.scaling))
    return replace(tensors, adapters=tuple(adapters))


def _one_block(sizes: tuple[int, ...], ranks: int, rank: int) -> Change:
    """Of a B for all outputs the rank takes one block, as if it were of one output, and lays it out as its rows."""

    def change(part: SubAdapter) -> SubAdapter:
        if len(part.lora_b) != sum(sizes) or any(size % ranks for size in sizes):
            return part
        local = [size // ranks for size in sizes]
        outputs = list(part.lora_b.clone().split(list(sizes)))
        for output, piece in zip(outputs, part.lora_b.chunk(ranks)[rank].split(local), strict=True):
            output[rank * len(piece) : (rank + 1) * len(piece)] = piece
        return SubAdapter(part.lora_a, torch.cat(outputs))

    return change


def gathered_mistakes(
    max_rank: int, ranks: int, adapters: tuple[LayerAdapter, ...]
) -> Iterator[tuple[str, AdaptersOf]]:
    """Mistakes of a LoRA rank that is cut over the ranks, and of gathering what its parts yield."""
    local = -(-max_rank // ranks)
    yield "gather-skipped", lambda rank: changed(adapters, blocks(local, ranks, lambda index: rank))
    yield "gather-misordered", lambda rank: changed(adapters, blocks(local, ranks, lambda i: ranks - 1 - i))
    for shift in range(1, min(ranks, 4)):
        yield "gather-misordered", constant(changed(adapters, blocks(local, ranks, moved(shift, ranks))))
    yield "shard-misplaced", lambda rank: changed(adapters, _cut_by_its_own_rank(local, ranks))


def _changed(tensors: CaseTensors, change: Change) -> CaseTensors:
    return replace(tensors, adapters=changed(tensors.adapters, change))


def changed(adapters: tuple[LayerAdapter, ...], change: Change) -> tuple[LayerAdapter, ...]:
    """The adapters with every part that is there changed."""
    return tuple(
        LayerAdapter(tuple(None if part is None else change(part) for part in adapter.parts), adapter.scaling)
        for adapter in adapters
    )


def _own_columns(ranks: int, rank: int, source: int) -> Change:
    """Rank ``rank`` takes the columns of A that are ``source``'s."""

    def change(part: SubAdapter) -> SubAdapter:
        blocks = list(part.lora_a.chunk(ranks, dim=1))
        blocks[rank] = blocks[source]
        return SubAdapter(torch.cat(blocks, dim=1), part.lora_b)

    return change


def dealt_columns(ranks: int) -> Change:
    """Every rank takes each ``ranks``-th column of A."""

    def change(part: SubAdapter) -> SubAdapter:
        return SubAdapter(torch.cat([part.lora_a[:, rank::ranks] for rank in range(ranks)], dim=1), part.lora_b)

    return change


def _own_rows(rows: int, ranks: int, rank: int) -> Change:
    """The rank's own output rows see its own part of the hidden only."""

    def change(part: SubAdapter) -> SubAdapter:
        lora_b = torch.zeros_like(part.lora_b)
        own = slice(rank * rows // ranks, (rank + 1) * rows // ranks)
        lora_b[own] = part.lora_b[own]
        return SubAdapter(part.lora_a, lora_b)

    return change


def first_rows(rows: int, ranks: int, *, of_each: bool) -> Change:
    """Every rank adds its rows of B, or also the first rank's, into the first rank's output rows."""

    def change(part: SubAdapter) -> SubAdapter:
        lora_b = torch.zeros_like(part.lora_b)
        for rank in range(ranks):
            own = part.lora_b[rank * rows // ranks : (rank + 1) * rows // ranks]
            lora_b[: len(own)] += own if of_each else part.lora_b[: len(own)]
        return SubAdapter(part.lora_a, lora_b)

    return change


def blocks(local: int, ranks: int, source: Callable[[int], int]) -> Change:
    """The blocks of A's rows that the ranks hold, gathered in another order or from another rank."""

    def change(part: SubAdapter) -> SubAdapter:
        lora_a, lora_b = _padded(part, local * ranks)
        blocks = lora_a.split(local)
        return SubAdapter(torch.cat([blocks[source(index)] for index in range(ranks)]), lora_b)

    return change


def _cut_by_its_own_rank(local: int, ranks: int) -> Change:
    """A's rows cut by the adapter's rank, and put where the slot's rank says."""

    def change(part: SubAdapter) -> SubAdapter:
        _, lora_b = _padded(part, local * ranks)
        lora_a = part.lora_a.new_zeros(local * ranks, part.lora_a.shape[1])
        rows = -(-part.rank // ranks)
        for rank in range(ranks):
            own = part.lora_a[rank * rows : (rank + 1) * rows]
            lora_a[rank * local : rank * local + len(own)] = own
        return SubAdapter(lora_a, lora_b)

    return change


def _padded(part: SubAdapter, rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - part.rank
    pad = torch.nn.functional.pad
    return pad(part.lora_a, (0, 0, 0, missing)), pad(part.lora_b, (0, missing))
