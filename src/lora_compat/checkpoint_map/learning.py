"""The loader is asked: it is handed a checkpoint whose elements are numbered, digit by digit, and then looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_compat.checkpoint_map.alphabets import UNKNOWN, UNWRITTEN, ZERO, Alphabet, alphabet_for
from lora_compat.checkpoint_map.shapes import TensorInfo
from lora_compat.errors import LoRAError

Weights = Iterable[tuple[str, Tensor]]
Load = Callable[[Weights], object]


class LoaderStopped(LoRAError):
    """The model's loader raised; nothing is known of the tensors that it had not been handed."""

    def __init__(self, name: str | None, error: Exception) -> None:
        where = "before it was handed any tensor" if name is None else f"at {name!r}"
        super().__init__(f"the model's loader stopped {where}: {type(error).__name__}: {error}")
        self.name = name


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Of each element of one parameter its row, among all rows of the checkpoint, and its column.

    ``rows`` and ``columns`` are int64 of the parameter's dimensions, with size 1 where all are alike; a negative
    number is `UNWRITTEN`, `ZERO` or `UNKNOWN`.
    """

    rows: Tensor
    columns: Tensor


def learned(shapes: Mapping[str, TensorInfo], load: Load, parameters: Mapping[str, Tensor]) -> dict[str, Sources]:
    """What the floating-point ``parameters`` hold of a checkpoint with ``shapes``, after ``load``.

    The parameters are left with numbers in them. One load for each digit of the rows and of the columns: three for a
    model of a few thousand million elements in bfloat16.

    Raises:
        LoaderStopped: the loader raised.
    """
    floats = {name: info for name, info in shapes.items() if info.dtype.is_floating_point}
    watched = {name: one for name, one in parameters.items() if one.dtype.is_floating_point}
    letters = alphabet_for([*(one.dtype for one in floats.values()), *(one.dtype for one in watched.values())])
    rows = sum(info.rows for info in floats.values())
    columns = max((info.columns for info in floats.values()), default=1)
    found: dict[str, list[Tensor]] = {}
    for by_row, total in ((True, rows), (False, columns)):
        ids: dict[str, Tensor] = {}
        for place in range(_places(total, letters.base)):
            _one_pass(_numbered(shapes, letters, place, by_row=by_row), load, watched)
            for name, one in watched.items():
                digits = letters.digits(_reduced(one.detach()))
                ids[name] = digits if place == 0 else _joined(ids[name], digits, letters.base**place)
        for name, one in ids.items():
            found.setdefault(name, []).append(one)
    return {name: Sources(*both) for name, both in found.items()}


def _places(total: int, base: int) -> int:
    places = 1
    while base**places < total:
        places += 1
    return places


def _one_pass(weights: Weights, load: Load, watched: Mapping[str, Tensor]) -> None:
    handed: list[str] = []

    def noted() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            handed[:] = [name]
            yield name, tensor

    with torch.no_grad():
        for one in watched.values():
            one.data.fill_(torch.nan)  # float8_e4m3fn has a NaN, too
        try:
            load(noted())
        except Exception as error:
            raise LoaderStopped(handed[0] if handed else None, error) from error


def _numbered(
    shapes: Mapping[str, TensorInfo], letters: Alphabet, place: int, *, by_row: bool
) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint with one digit of each element's row, or column, in its place; one tensor at a time."""
    first = 0
    for name, info in shapes.items():
        if not info.dtype.is_floating_point:
            yield name, torch.zeros(info.shape, dtype=info.dtype)
            continue
        count = info.rows if by_row else info.columns
        ids = torch.arange(first if by_row else 0, (first if by_row else 0) + count)
        values = letters.values[ids // letters.base**place % letters.base].to(info.dtype)
        if len(info.shape) < 2:
            values = values if by_row else values.expand(info.rows)
            yield name, values.reshape(info.shape).clone()
        else:
            shape = (*info.shape[:-1], 1) if by_row else (*(1 for _ in info.shape[:-1]), info.columns)
            yield name, values.view(shape).expand(info.shape).contiguous()
        first += info.rows


def _reduced(values: Tensor) -> Tensor:
    """``values`` with size 1 in every dimension along which all are alike, NaN like NaN."""
    if values.dtype.itemsize == 1:
        values = values.float()
    plain = values.nan_to_num(float("inf")) if bool(values.isnan().any()) else values
    for dim in range(values.dim()):
        first = plain.narrow(dim, 0, min(1, plain.shape[dim]))
        if plain.shape[dim] > 1 and torch.equal(plain, first.expand_as(plain)):
            plain, values = first, values.narrow(dim, 0, 1)
    return values


def _joined(ids: Tensor, digits: Tensor, weight: int) -> Tensor:
    """Numbers with one more digit in front; the first thing that is no digit wins."""
    ids, digits = torch.broadcast_tensors(ids, digits)
    both = torch.where(digits < 0, digits, ids + digits * weight)
    both = torch.where(ids < 0, ids, both)
    unlike = (ids < 0) != (digits < 0)  # a digit that is none in one pass alone was computed
    return torch.where(unlike, UNKNOWN, both)


__all__ = ["UNKNOWN", "UNWRITTEN", "ZERO", "Load", "LoaderStopped", "Sources", "learned"]
