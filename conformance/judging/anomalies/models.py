"""What went wrong between an adapter file and a model: each known mistake is computed, and compared with what is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.implementations.models import EXPERTS, LOGITS, OUTPUT, ROWS
from conformance.judging.anomalies import UNEXPLAINED
from conformance.subjects.models.adapters import FilePair

VANISHED = "key-vanished"
_COMPUTED = (OUTPUT, ROWS, "weight", *EXPERTS)


@dataclass(frozen=True, slots=True)
class PartDifference:
    """One part of one module on one rank: what the adapter had to add, and what it did; of one shape."""

    module: str
    part: str
    rank: int
    want: Tensor
    got: Tensor

    @property
    def place(self) -> tuple[int, ...]:
        """The first element that is wrong."""
        wrong = (self.want != self.got).nonzero()
        return tuple(wrong[0].tolist()) if len(wrong) else ()


def explain(
    wrong: PartDifference, everything: Mapping[tuple[str, str, int], Tensor], pairs: Sequence[FilePair]
) -> str:
    """The name of the mistake that gives just what was seen.

    ``everything`` has what every module had to get, by name, part and rank.
    """
    want, got = wrong.want, wrong.got
    if not wrong.place:
        return "base-changed"  # of another shape, or not the base's
    if wrong.part not in _COMPUTED:
        return "weight-stolen"  # a copy of the weight that the adapter does not reach
    if not got.any():
        return VANISHED
    return (
        _scaled(want, got, pairs)
        or _moved(wrong)
        or _in_part(wrong, want, got)
        or _elsewhere(wrong, everything, pairs)
        or _scaled(want[got != 0], got[got != 0], pairs)  # what there is of it
        or UNEXPLAINED
    )


def _scaled(want: Tensor, got: Tensor, pairs: Sequence[FilePair]) -> str | None:
    there = want != 0
    if not there.any() or bool(got[~there].any()):
        return None
    ratios = got[there] / want[there]
    ratio, most = float(ratios.min()), float(ratios.max())
    if ratio != most:  # by an embedding's root of the hidden size, say, which rounds what it scales
        return "scale-wrong" if most - ratio < _ROUNDED * abs(ratio) else None
    if any(pair.scaling not in (1, ratio) and pair.scaling * ratio == 1 for pair in pairs):
        return "scale-dropped"
    if any(pair.scaling == ratio for pair in pairs):
        return "scale-twice"
    return {0.5: "halved", 2.0: "delta-doubled"}.get(ratio, "scale-wrong")


def _moved(wrong: PartDifference) -> str | None:
    """The same numbers in another order."""
    want, got = wrong.want, wrong.got
    if want.ndim > 1 and want.shape == got.mT.shape and torch.equal(got.mT, want):
        return "transposed"
    names = _OF_STACKS if want.ndim == 3 else _OF_OUTPUTS if wrong.part == OUTPUT else _OF_OUTPUTS[::-1]
    return next((names[dim] for dim in range(want.ndim) if _same_slices(want, got, dim)), None)


_ROUNDED = 1 / 16  # what bfloat16 makes of a difference of numbers ten times as large
_OF_OUTPUTS = ("columns-moved", "rows-moved")  # an output has the rows of its weight last
_OF_STACKS = ("other-expert", "rows-moved", "columns-moved")


def _same_slices(want: Tensor, got: Tensor, dim: int) -> bool:
    return sorted(_slices(want, dim)) == sorted(_slices(got, dim))


def _slices(tensor: Tensor, dim: int) -> list[bytes]:
    return [part.contiguous().numpy().tobytes() for part in tensor.movedim(dim, 0)]


def _in_part(wrong: PartDifference, want: Tensor, got: Tensor) -> str | None:
    """Right in some outputs, and nothing in the others."""
    dim = 0 if wrong.part == ROWS else want.ndim - (1 if wrong.part == OUTPUT else 2)
    pairs = list(zip(want.movedim(dim, 0), got.movedim(dim, 0), strict=True))
    lost = [one for one, other in pairs if not torch.equal(one, other)]
    if any(bool(other.any()) for one, other in pairs if not torch.equal(one, other)):
        return None
    kept = {one.contiguous().numpy().tobytes() for one, other in pairs if one.any() and torch.equal(one, other)}
    if kept and all(one.contiguous().numpy().tobytes() in kept for one in lost):
        return "landed-once-of-twice"
    return "landed-in-part"


def _elsewhere(
    wrong: PartDifference, everything: Mapping[tuple[str, str, int], Tensor], pairs: Sequence[FilePair]
) -> str | None:
    for (module, part, rank), other in everything.items():
        if part == wrong.part and other.shape == wrong.got.shape and torch.equal(other, wrong.got):
            if module == wrong.module and rank != wrong.rank:
                return "other-rank"
            if module != wrong.module:
                return "other-module"
    sources = dict(sources_of(pairs))
    found = [sources.get(row) for row in rows_of(wrong.got) if row]
    return "other-module" if found and all(found) else None


def tensor_of(wrong: PartDifference, pairs: Sequence[FilePair]) -> FilePair | None:
    """The pair of the file whose rows are missing or wrong."""
    sources = dict(sources_of(pairs))
    at_fault = torch.where(wrong.want != wrong.got, 1.0, 0.0)
    rows = [row for row, bad in zip(rows_of(wrong.want), _bad_rows(at_fault), strict=True) if bad and row]
    found = next((sources[row] for row in rows if row in sources), None)
    found = found or next((pair for pair in pairs if _has_piece(pair.delta, wrong)), None)
    return found or max(pairs, key=lambda pair: _likeness(pair.module, wrong.module), default=None)


def _has_piece(delta: Tensor, wrong: PartDifference) -> bool:
    """Whether a row that is missing is part of a row or column of ``delta``, as where a weight was cut into heads."""
    flat = wrong.want.reshape(-1, wrong.want.shape[-1]) if wrong.want.ndim else wrong.want.reshape(1, 1)
    row = next((one for one in flat.float() if one.any()), None)
    if row is None or delta.ndim != 2:
        return False
    sides = [side for side in (delta, delta.T) if side.shape[1] >= len(row)]
    return any(bool((side.unfold(1, len(row), 1) == row).all(dim=-1).any()) for side in sides)


def sources_of(pairs: Sequence[FilePair]) -> Iterator[tuple[bytes, FilePair]]:
    """Every row and column of what a pair adds."""
    for pair in pairs:
        for delta in (pair.delta, pair.delta.transpose(-1, -2)):
            yield from ((row, pair) for row in _as_bytes(delta.reshape(-1, delta.shape[-1])) if row)


def rows_of(tensor: Tensor) -> list[bytes]:
    """What each output gets, as bytes; empty for nothing. The last axis of outputs is that of the outputs."""
    return _as_bytes(tensor.T if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1]))


def _as_bytes(rows: Tensor) -> list[bytes]:
    numbers = rows.float().contiguous().numpy()
    return [row.tobytes() if row.any() else b"" for row in numbers]


def _bad_rows(at_fault: Tensor) -> list[bool]:
    flat = at_fault.T if at_fault.ndim == 2 else at_fault.reshape(-1, at_fault.shape[-1])
    return [bool(row.any()) for row in flat]


def _likeness(one: str, other: str) -> int:
    """How many parts two names share."""
    if other == LOGITS:
        return 9 * one.endswith(("lm_head", "embed_out"))
    return len(set(one.split(".")) & set(other.split(".")))
