"""The values that stand for digits: numbers that every dtype on the way holds exactly."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

# Significant bits, and the exponents of normal numbers with that many bits in front of the point.
_FLOATS = {
    torch.float64: (53, -900, 900), torch.float32: (24, -120, 100), torch.bfloat16: (8, -120, 110),
    torch.float16: (11, -24, 4), torch.float8_e4m3fn: (4, -9, 4), torch.float8_e5m2: (3, -16, 12),
}  # fmt: skip
# What is moved and never computed with: its bits are numbered, as those of an integer.
_RAW = {torch.float8_e8m0fnu: torch.uint8, torch.float4_e2m1fn_x2: torch.uint8}
_INTEGERS = {torch.uint8: 255, torch.int8: 127, torch.int16: 32767, torch.int32: 65535, torch.int64: 65535}
_MOST_BITS = 11
_LOWEST = -100
_LEAST, _MOST = 2.0**-9, 2.0**6
_PLAIN = 64  # whole numbers up to here, and powers of two, are what loaders write of their own accord
ZERO, UNKNOWN = -1, -2  # in place of a digit


class Kind(enum.Enum):
    """Numbers that may be cast into each other."""

    FLOATS = "floats"
    INTEGERS = "integers"


def kind_of(dtype: torch.dtype) -> Kind | None:
    """The kind of a dtype; None for one that cannot hold numbers (bool, complex)."""
    if dtype in _FLOATS:
        return Kind.FLOATS
    return Kind.INTEGERS if dtype in _INTEGERS or dtype in _RAW else None


def raw_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype whose numbers tensors of ``dtype`` are filled with, or read as."""
    return _RAW.get(dtype, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Alphabet:
    """``values[d]`` stands for digit ``d``; ``poison`` is smaller than all of them, and none of them."""

    values: Tensor
    poison: float
    _sorted: Tensor = field(init=False)
    _digit: Tensor = field(init=False)

    def __post_init__(self) -> None:
        ordered, digit = self.values.sort()
        object.__setattr__(self, "_sorted", ordered)
        object.__setattr__(self, "_digit", digit)

    @property
    def moderate(self) -> Tensor:
        """Those that are of the size of weights: what is computed of them differs from number to number."""
        sized = self.values[(self.values.abs() > _LEAST) & (self.values.abs() < _MOST)]
        return sized if len(sized) else self.values

    @property
    def base(self) -> int:
        """How many digits there are."""
        return len(self.values)

    def digits(self, numbers: Tensor) -> Tensor:
        """The digit of each number, or `ZERO`, or `UNKNOWN`."""
        seen = numbers.view(raw_dtype(numbers.dtype)).double().cpu()
        place = torch.searchsorted(self._sorted, seen.nan_to_num(0.0).contiguous()).clamp_max(self.base - 1)
        found = torch.where(self._sorted[place] == seen, self._digit[place], UNKNOWN)
        return torch.where(seen == 0, ZERO, found)


@lru_cache(maxsize=8)
def _floats(bits: int, low: int, high: int) -> Alphabet:
    significands = torch.arange(2 ** (bits - 1), 2**bits, dtype=torch.float64)
    scales = torch.tensor(2.0, dtype=torch.float64) ** torch.arange(low, high + 1, dtype=torch.float64)
    numbers = (significands[:, None] * scales).flatten()
    numbers = torch.cat([numbers, -numbers])
    numbers = numbers[(numbers.abs().log2() % 1 != 0) & ((numbers % 1 != 0) | (numbers.abs() > _PLAIN))]
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return Alphabet(numbers[order], 2.0 ** (low + bits - 1))


def alphabet_for(kind: Kind, dtypes: Iterable[torch.dtype]) -> Alphabet:
    """The alphabet of all ``dtypes`` that a number of the kind may pass through."""
    if kind is Kind.INTEGERS:
        most = min((_INTEGERS[raw_dtype(dtype)] for dtype in dtypes), default=255)
        return Alphabet(torch.arange(2, most + 1).double(), 1.0)
    told = [_FLOATS[dtype] for dtype in set(dtypes)]
    bits = min([_MOST_BITS, *(one[0] for one in told)])
    # An exponent is that of the last bit: up to 0, so that a loader which adds one leaves no number as it was.
    low = max([_LOWEST, *(one[1] for one in told)])
    return _floats(bits, low, min([0, *(one[2] + one[0] - bits for one in told)]))
