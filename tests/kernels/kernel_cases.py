"""A kernel case as data, the tensors it stands for, and the dense mathematics it is compared with.

Every operand is a view into a larger buffer. What lies around an input, and every slot that no token uses, is
NaN: a kernel that reads it shows NaN. What lies around the output is a canary whose bits are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_compat.kernels import NO_ADAPTER, TokenBatch, torch_ops, triton_ops

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
CANARY = -77.0

Layout = Literal["contiguous", "padded rows", "every second", "transposed"]
Values = Literal["signed", "positive", "real"]


@dataclass(frozen=True)
class Implementation:
    """One of the twins; ``truncates``: it cuts to bfloat16 where others round, as the interpreter does."""

    name: str
    ops: ModuleType
    truncates: bool = False

    def narrow(self, exact: Tensor, dtype: torch.dtype) -> Tensor:
        """``exact`` as the implementation writes it."""
        single = exact.to(torch.float32)
        if self.truncates and dtype == torch.bfloat16:
            single = (single.view(torch.int32) & -65536).view(torch.float32)
        return single.to(dtype)

    def unit(self, dtype: torch.dtype) -> float:
        """The largest relative error of one rounding to ``dtype``."""
        half_ulp = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}[dtype]
        return 2 * half_ulp if self.truncates else half_ulp


IMPLEMENTATIONS = [
    Implementation("torch", torch_ops),
    Implementation("triton", triton_ops, truncates=not ON_GPU),
]


each_twin = pytest.mark.parametrize("twin", IMPLEMENTATIONS, ids=lambda twin: twin.name)
again = [
    pytest.param(twin, id=f"{twin.name}-{time}", marks=pytest.mark.thorough)
    for twin in IMPLEMENTATIONS
    for time in ("second", "third", "fourth")
]
each_twin_draws = pytest.mark.parametrize("twin", IMPLEMENTATIONS + again, ids=lambda twin: twin.name)


@dataclass(frozen=True)
class KernelCase:
    """Sizes, map, layouts and the seed of the values; nothing else decides a tensor."""

    token_slots: tuple[int, ...]
    slots: int
    k: int
    rank: int
    slice_sizes: tuple[int, ...]
    offset: int
    tail: int
    dtype: torch.dtype
    layouts: tuple[Layout, Layout, Layout, Layout]
    seed: int

    @property
    def columns(self) -> int:
        return sum(self.slice_sizes)


@dataclass(frozen=True)
class Operands:
    """The tensors of a case; ``frame`` is the whole buffer that ``output`` is a view of."""

    x: Tensor
    lora_a: Tensor
    lora_b: Tensor
    scaling: Tensor
    batch: TokenBatch
    output: Tensor
    frame: Tensor


def place(values: Tensor, layout: Layout, fill: float) -> tuple[Tensor, Tensor]:
    """``values`` as a view of that layout into a buffer of ``fill``, and the buffer."""
    *lead, rows, columns = values.shape
    if layout == "transposed":
        frame = torch.full((*lead, columns + 2, rows + 3), fill, dtype=values.dtype, device=values.device)
        view = frame.transpose(-1, -2)[..., 1 : rows + 1, 1 : columns + 1]
    elif layout == "every second":
        frame = torch.full((*lead, rows + 2, 2 * columns + 3), fill, dtype=values.dtype, device=values.device)
        view = frame[..., 1 : rows + 1, 1 : 2 * columns + 1 : 2]
    else:
        margin = 0 if layout == "contiguous" else 5
        width = columns + margin
        frame = torch.full((*lead, rows + 2, width), fill, dtype=values.dtype, device=values.device)
        view = frame[..., 1 : rows + 1, :columns]
    view.copy_(values)
    return view, frame


def draw_values(case: KernelCase, values: Values, shape: tuple[int, ...], salt: int) -> Tensor:
    """Integers that bfloat16 holds, or reals, from the case's seed alone."""
    generator = torch.Generator().manual_seed(case.seed * 16 + salt)
    if values == "real":
        numbers = torch.randn(shape, generator=generator)
    else:
        # Odd numbers of more than 11 bits, which TF32 would round, where float32 can take them.
        room = case.k * case.rank <= 200
        wide = case.dtype == torch.float32 and salt == 0 and values == "signed" and room
        low, high = (-4095, 4095) if wide else (-3, 3) if values == "signed" else (1, 3)
        numbers = torch.randint(low, high + 1, shape, generator=generator).float()
    return numbers.to(DEVICE, case.dtype)


def operands(case: KernelCase, values: Values) -> Operands:
    """The tensors of ``case``, NaN in every slot that no token uses."""
    tokens, slices = len(case.token_slots), len(case.slice_sizes)
    lora_a = draw_values(case, values, (case.slots, slices, case.rank, case.k), 1)
    lora_b = draw_values(case, values, (case.slots, case.columns, case.rank), 2)
    scaling = torch.tensor([2.0 ** (slot % 3 - 1) for slot in range(case.slots)], device=DEVICE)
    for slot in set(range(case.slots)) - set(case.token_slots):
        lora_a[slot] = lora_b[slot] = scaling[slot] = torch.nan
    base = draw_values(case, values, (tokens, case.offset + case.columns + case.tail), 3)
    output, frame = place(base, case.layouts[3], CANARY)
    return Operands(
        place(draw_values(case, values, (tokens, case.k), 0), case.layouts[0], torch.nan)[0],
        place(lora_a, case.layouts[1], torch.nan)[0],
        place(lora_b, case.layouts[2], torch.nan)[0],
        scaling,
        TokenBatch.of(case.token_slots, DEVICE),
        output,
        frame,
    )


def dense_shrink(x: Tensor, lora_a: Tensor, token_slots: tuple[int, ...]) -> Tensor:
    """``[tokens, slices, rank]`` in float64, one token at a time: as plain as it can be said."""
    hidden = torch.zeros(len(token_slots), *lora_a.shape[1:3], dtype=torch.float64, device=x.device)
    for token, slot in enumerate(token_slots):
        if slot != NO_ADAPTER:
            hidden[token] = lora_a[slot].double() @ x[token].double()
    return hidden


def dense_expand(hidden: Tensor, lora_b: Tensor, case: KernelCase) -> Tensor:
    """``[tokens, columns]`` in float64, without the scaling."""
    delta = torch.zeros(len(hidden), case.columns, dtype=torch.float64, device=hidden.device)
    slice_of_column = [index for index, size in enumerate(case.slice_sizes) for _ in range(size)]
    for token, slot in enumerate(case.token_slots):
        if slot != NO_ADAPTER:
            delta[token] = (lora_b[slot].double() * hidden[token, slice_of_column].double()).sum(-1)
    return delta


def token_scaling(given: Operands, case: KernelCase) -> Tensor:
    """``[tokens, 1]``, zero for a token without an adapter."""
    factors = [given.scaling[slot].item() if slot != NO_ADAPTER else 0.0 for slot in case.token_slots]
    return torch.tensor(factors, dtype=torch.float64, device=DEVICE).view(-1, 1)


def run_ops(ops: ModuleType, given: Operands, case: KernelCase, *, fused: bool) -> None:
    """Shrink and expand, or both at once, into ``given.output``."""
    place_of_slices = {"slice_sizes": case.slice_sizes, "offset": case.offset}
    tail = (given.lora_b, given.scaling, given.batch, given.output)
    if fused:
        ops.add_lora(given.x, given.lora_a, *tail, **place_of_slices)
    else:
        ops.expand(ops.shrink(given.x, given.lora_a, given.batch), *tail, **place_of_slices)


def bits(tensor: Tensor) -> Tensor:
    """The bit patterns: NaN equals itself, and 0 is not -0."""
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


RANKS = st.one_of(st.integers(1, 20), st.sampled_from([1, 8, 15, 16, 17, 32, 64, 65, 100]))
LAYOUTS: list[Layout] = ["contiguous", "padded rows", "every second", "transposed"]


@st.composite
def kernel_cases(draw: st.DrawFn) -> KernelCase:
    """Any map of tokens to slots, in any order, with any tokens left out; sizes around the tiles' edges."""
    slots = draw(st.integers(1, 4))
    slot = st.integers(NO_ADAPTER, slots - 1)
    tokens = draw(st.one_of(st.integers(0, 6), st.sampled_from([15, 16, 17, 33, 70])))
    one_adapter = draw(st.booleans()) and tokens > 6
    token_slots = (draw(slot),) * tokens if one_adapter else tuple(draw(st.tuples(*[slot] * tokens)))
    sizes = st.one_of(st.integers(1, 9), st.sampled_from([16, 63, 64, 65, 128, 130]))
    return KernelCase(
        token_slots=token_slots,
        slots=slots,
        k=draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 63, 64, 129, 300, 1030, 2100]))),
        rank=draw(RANKS),
        slice_sizes=tuple(draw(st.lists(sizes, min_size=1, max_size=4))),
        offset=draw(st.sampled_from([0, 0, 1, 8])),
        tail=draw(st.sampled_from([0, 1, 16])),
        dtype=draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32])),
        layouts=tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(4)),
        seed=draw(st.integers(0, 2**16)),
    )


# A tenth of a second a case in the interpreter; a thorough run repeats each property.
property_test = settings(
    max_examples=40 if ON_GPU else 10, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=ON_GPU
)
