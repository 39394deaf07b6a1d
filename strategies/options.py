"""What cases are drawn from, as data: a clause narrows it, and so does an existing class."""

from __future__ import annotations

from dataclasses import dataclass

from lora_compat.family import Family
from strategies.adapters import MAX_RANKS, SCALINGS
from strategies.cases import DTYPES, Dtype, Layout, Quantization, Regime, WrapperKind
from strategies.classes import FORWARDS, MAX_DEPTH
from strategies.forwards import Forward
from strategies.layers import FAMILIES
from strategies.parallel import TP_SIZES

ONE_IN = 8  # cases has a large dimension


@dataclass(frozen=True, slots=True)
class Options:
    """What `cases` draws from."""

    families: tuple[Family, ...] = FAMILIES
    tp_sizes: tuple[int, ...] = TP_SIZES
    forwards: tuple[Forward, ...] = FORWARDS
    min_depth: int = 0
    max_depth: int = MAX_DEPTH
    max_nesting: int = 0
    min_outputs: int = 1
    adapters: tuple[int, int] = (1, 3)
    tokens: tuple[int, int] = (1, 6)
    without_adapter: bool = True
    layouts: tuple[Layout, ...] = (Layout.TWO_D,)
    dtypes: tuple[Dtype, ...] = DTYPES
    regimes: tuple[Regime, ...] = tuple(Regime)
    quantizations: tuple[Quantization, ...] = (Quantization.NONE,)
    sharding: tuple[bool, ...] = (False, True)
    max_ranks: tuple[int, ...] = MAX_RANKS
    biases: tuple[bool, ...] = (False, True)
    disable_tp: bool | None = None
    scalings: tuple[float, ...] = SCALINGS
    ranks: tuple[int, ...] = ()
    nestings: tuple[WrapperKind, ...] = tuple(WrapperKind)
    min_nesting: int = 0
    large: int = ONE_IN
