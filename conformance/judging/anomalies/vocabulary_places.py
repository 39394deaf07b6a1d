"""Where the ids of a padded, sharded vocabulary lie, and where a mistaken layer looks for them instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from conformance.judging.anomalies import constant, moved
from strategies.vocabulary import VocabularyCase

# For every id the one whose row is taken, or None where that is padding.
Sources = list[int | None]


def held(case: VocabularyCase) -> list[Sources]:
    """The ids that each rank holds, by local row, with None for padding: original ones, then added ones."""
    padded, whole = (_padded(case, count) for count in (case.original, _padded(case, case.original) + case.added))
    ranks = []
    for rank in range(case.tp_size):
        ids: Sources = []
        for first, end, rows in (
            (0, case.original, padded // case.tp_size),
            (case.original, case.vocabulary, (whole - padded) // case.tp_size),
        ):
            ids += [one if one < end else None for one in range(first + rank * rows, first + (rank + 1) * rows)]
        ranks.append(ids)
    return ranks


def _padded(case: VocabularyCase, count: int) -> int:
    return -(-count // case.padding_size) * case.padding_size


def cut_mistakes(case: VocabularyCase) -> Iterator[tuple[str, Sources]]:
    """Ways in which an adapter's rows are cut wrongly among the ranks."""
    ranks = case.tp_size
    rows = case.original if case.for_original else case.vocabulary
    part = -(-rows // ranks)
    yield (
        "padding-overlooked",
        _sources(case, lambda rank, row: rank * part + row if row < part and rank * part + row < rows else None),
    )
    for other in _other_ranks(ranks):
        yield "shard-misplaced", _sources(case, partial(_of_other, held(case), other))
    yield from lookup_mistakes(case)


def lookup_mistakes(case: VocabularyCase) -> Iterator[tuple[str, Sources]]:
    """Ways in which an id's local row is computed wrongly."""
    if not case.added:
        return
    start = _padded(case, case.original) // case.tp_size

    def behind(rank: int, row: int) -> int | None:
        ids = held(case)[rank]
        return ids[row] if row < start else ids[row - ids[:start].count(None)]

    yield "padding-overlooked", _sources(case, behind)


def gathering_mistakes(case: VocabularyCase) -> Iterator[tuple[str, Callable[[int], Sources]]]:
    """Ways in which the ranks' logits are put together wrongly, by the rank that does so."""
    ranks, ids = case.tp_size, held(case)
    beside = [one for rank in ids for one in rank]
    yield "padding-overlooked", constant(beside[: case.vocabulary])
    if ranks == 1:
        return
    yield "gather-skipped", lambda rank: _sources(case, lambda _, row: ids[rank][row])
    for other in _other_ranks(ranks)[1:]:
        yield "gather-misordered", constant(_sources(case, partial(_of_other, ids, other)))


def _other_ranks(ranks: int) -> list[Callable[[int], int]]:
    """The first rank for every one, the ranks in reverse, and moved on."""
    if ranks == 1:
        return []
    return [constant(0), lambda rank: ranks - 1 - rank, *(moved(shift, ranks) for shift in range(1, ranks))]


def _of_other(ids: list[Sources], other: Callable[[int], int], rank: int, row: int) -> int | None:
    """What another rank has in the same row."""
    return ids[other(rank)][row]


def _sources(case: VocabularyCase, source: Callable[[int, int], int | None]) -> Sources:
    """For every id what ``source`` says of its rank and local row."""
    found: Sources = [None] * case.vocabulary
    for rank, ids in enumerate(held(case)):
        for row, one in enumerate(ids):
            if one is not None:
                found[one] = source(rank, row)
    return found
