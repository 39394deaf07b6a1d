"""How a LoRA kernel is timed: operands, callers, graphs, and the ceilings of the GPU measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import TypeVar

import torch
import triton
from torch import Tensor

from benchmarks.shapes import Point
from lora_compat.kernels import NO_ADAPTER, TokenBatch, add_lora

DTYPE = torch.bfloat16
Given = TypeVar("Given")


@dataclass(frozen=True)
class Operands:
    """The tensors of one call."""

    x: Tensor
    lora_a: Tensor  # [slots, slices, rank, k]
    lora_b: Tensor  # [slots, columns, rank]
    y: Tensor

    @classmethod
    def draw(cls, point: Point, seed: int) -> Operands:
        """Normal values; y of about the size of what is added to it."""
        generator = torch.Generator("cuda").manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.empty(shape, device="cuda", dtype=DTYPE).normal_(0.0, scale, generator=generator)

        columns = sum(point.slices)
        return cls(
            normal(point.tokens, point.k),
            normal(point.slots, len(point.slices), point.rank, point.k, scale=point.k**-0.5),
            normal(point.slots, columns, point.rank, scale=point.rank**-0.5),
            normal(point.tokens, columns),
        )

    @property
    def nbytes(self) -> int:
        """Of all four, what nobody reads among them."""
        return self.x.nbytes + self.lora_a.nbytes + self.lora_b.nbytes + self.y.nbytes


Call = Callable[[Operands], None]


def ours(point: Point) -> Call:
    """``add_lora``, metadata made."""
    batch = TokenBatch.of(point.token_slots, "cuda")
    scaling = torch.ones(point.slots, device="cuda")

    def call(given: Operands) -> None:
        add_lora(given.x, given.lora_a, given.lora_b, scaling, batch, given.y, slice_sizes=point.slices)

    return call


def vllm_call(point: Point) -> Call:
    """``add_lora_linear`` of vLLM's Punica wrapper, metadata set."""
    from vllm.config.lora import LoRAConfig
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.ops.triton_ops import utils
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

    # Keyed by address and never emptied, while the allocator gives addresses out again.
    utils._LORA_A_PTR_DICT.clear()
    utils._LORA_B_PTR_DICT.clear()
    config = LoRAConfig(max_lora_rank=point.rank, max_loras=point.slots, lora_dtype=DTYPE)
    wrapper = PunicaWrapperGPU(point.tokens, max_batches=point.tokens, device="cuda", lora_config=config)
    ids = tuple(slot + 1 for slot in point.token_slots)  # 0 is a token without an adapter
    mapping = LoRAMapping(ids, ids, is_prefill=point.tokens > 128)
    wrapper.update_metadata(mapping, list(range(1, point.slots + 1)), point.slots + 1, 32000)
    stacked: dict[int, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {}

    def call(given: Operands) -> None:
        if id(given) not in stacked:  # vLLM keeps one [slots, 1, rank, k] tensor a slice
            a = tuple(part.contiguous() for part in given.lora_a.split(1, dim=1))
            b = tuple(part.contiguous().unsqueeze(1) for part in given.lora_b.split(list(point.slices), dim=1))
            stacked[id(given)] = (a, b)
        a, b = stacked[id(given)]
        wrapper.add_lora_linear(given.y, given.x, a, b, 1.0, point.slices)

    return call


def graph_microseconds(call: Callable[[Given], object], sets: list[Given], replays: int) -> float:
    """Median time of one call, replayed from a graph of ``len(sets)`` calls."""
    for given in sets:  # compiles, and fills every cache
        call(given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for given in sets:
            call(given)
    times = []
    for _ in range(replays + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / len(sets))
    return median(times[3:])


def relative_error(call: Call, point: Point, given: Operands) -> float:
    """‖y − exact‖ / ‖exact‖ with the exact result in float64 from the same bfloat16 operands."""
    exact = given.y.double()
    slots = torch.tensor(point.token_slots, device="cuda")
    for slot in set(point.token_slots) - {NO_ADAPTER}:
        rows = (slots == slot).nonzero()[:, 0]
        hidden = torch.einsum("tk,lrk->tlr", given.x[rows].double(), given.lora_a[slot].double())
        for index, weights in enumerate(given.lora_b[slot].split(list(point.slices))):
            first = sum(point.slices[:index])
            exact[rows, first : first + len(weights)] += hidden[:, index] @ weights.double().t()
    fresh = Operands(given.x, given.lora_a, given.lora_b, given.y.clone())
    call(fresh)
    return float((fresh.y.double() - exact).norm() / exact.norm())


@triton.jit
def empty_kernel(x):  # type: ignore[no-untyped-def]
    """Does nothing."""


@dataclass(frozen=True)
class Ceilings:
    """What the GPU does at best: bytes and operations a microsecond, and microseconds a launch."""

    bytes: float
    operations: float
    launch: float

    def floor(self, point: Point, launches: int) -> float:
        """The microseconds that nobody goes below: the largest of bytes, operations and launches."""
        return max(point.moved / self.bytes, point.operations / self.operations, launches * self.launch)


@cache
def ceilings(launch: float) -> Ceilings:
    """Bytes of a large copy (read plus written), operations of a product of two 8192 × 8192 bfloat16 matrices."""
    source, target = (torch.randn(2**28, device="cuda") for _ in range(2))
    copied = eager_microseconds(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=DTYPE) for _ in range(2))
    multiplied = eager_microseconds(lambda: a @ b)
    return Ceilings(2 * source.nbytes / copied, 2 * 8192**3 / multiplied, launch)


def eager_microseconds(call: Callable[[], object]) -> float:
    """Median time of something large; a copy in a graph is slower than one outside."""
    times = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    return median(times[2:])


def empty_launch() -> float:
    """Microseconds that a kernel takes which does nothing, one program a multiprocessor, in a graph of 200."""
    x = torch.zeros(1, device="cuda")
    programs = torch.cuda.get_device_properties(0).multi_processor_count
    return graph_microseconds(lambda _: empty_kernel[(programs,)](x), [None] * 200, 15)
