"""The values that stand for digits: every dtype on the way holds them exactly, and what computes rarely hits one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

# Significant bits, and the exponents of normal numbers with that many bits in front of the point.
_BITS = {
    torch.float64: (53, -900, 900), torch.float32: (24, -120, 100), torch.bfloat16: (8, -120, 110),
    torch.float16: (11, -24, 4), torch.float8_e4m3fn: (4, -9, 4), torch.float8_e5m2: (3, -16, 12),
}  # fmt: skip
_MOST_BITS = 11
_LOWEST = -110
_PLAIN = 64  # whole numbers up to here, and powers of two, are what loaders write of their own accord
UNWRITTEN, ZERO, UNKNOWN = -1, -2, -3  # in place of a digit


@dataclass(frozen=True, slots=True, eq=False)
class Alphabet:
    """``values[d]`` stands for digit ``d``: one half, chosen at random, of the numbers that all dtypes share.

    So a number that was computed is no digit with probability one half, and none of its neighbours is what was meant.
    """

    values: Tensor
    _sorted: Tensor = field(init=False)
    _digit: Tensor = field(init=False)

    def __post_init__(self) -> None:
        ordered, digit = self.values.sort()
        object.__setattr__(self, "_sorted", ordered)
        object.__setattr__(self, "_digit", digit)

    @property
    def base(self) -> int:
        """How many digits there are."""
        return len(self.values)

    def digits(self, numbers: Tensor) -> Tensor:
        """The digit of each number, of any float dtype; `UNWRITTEN` for NaN, `ZERO`, or `UNKNOWN`."""
        seen = numbers.double()
        place = torch.searchsorted(self._sorted, seen.nan_to_num(0.0).contiguous()).clamp_max(self.base - 1)
        found = torch.where(self._sorted[place] == seen, self._digit[place], UNKNOWN)
        return torch.where(seen.isnan(), UNWRITTEN, torch.where(seen == 0, ZERO, found))


@lru_cache(maxsize=8)
def _shared(bits: int, low: int, high: int) -> Alphabet:
    significands = torch.arange(2 ** (bits - 1), 2**bits, dtype=torch.float64)
    scales = torch.tensor(2.0, dtype=torch.float64) ** torch.arange(low, high + 1, dtype=torch.float64)
    numbers = (significands[:, None] * scales).flatten()
    numbers = torch.cat([numbers, -numbers])
    numbers = numbers[(numbers.abs().log2() % 1 != 0) & ((numbers % 1 != 0) | (numbers.abs() > _PLAIN))]
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return Alphabet(numbers[order[: len(numbers) // 2]])


def alphabet_for(dtypes: Iterable[torch.dtype]) -> Alphabet:
    """The alphabet of float dtypes that a number may pass through."""
    told = [_BITS[dtype] for dtype in set(dtypes)]
    bits = min(_MOST_BITS, *(one[0] for one in told)) if told else 8
    # An exponent is that of the last bit: up to 0, so that a loader which adds one leaves no number as it was.
    low = max([_LOWEST, *(one[1] for one in told)])
    return _shared(bits, low, min([0, *(one[2] + one[0] - bits for one in told)]))
