"""Every tensor of a case, as a pure function of its seed.

In the exact regime all values are small integers (and scalings powers of two), thinned out until every sum that any
order of summation could form is exactly representable in the case's dtype; results are then equal bit for bit. In
the rounded regime they are normal deviates, signed and centred, rounded to the case's dtype once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from conformance.implementations.dtypes import torch_dtype
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, Content, Dtype, Layout, Regime
from strategies.forwards import Forward

# Integers up to here are exact: 2 to the number of significand bits.
EXACT_LIMIT = {Dtype.FLOAT32: 2.0**24, Dtype.FLOAT16: 2.0**11, Dtype.BFLOAT16: 2.0**8, Dtype.TF32: 2.0**11}
_MAX_THINNING = 40


@dataclass(frozen=True, slots=True, eq=False)
class CaseTensors:
    """The unsharded tensors of a case, float64 throughout.

    ``weights[i]`` is output i's ``[out_i, in]``, ``biases[i]`` its ``[out_i]`` (empty without bias); ``inputs[r]``
    is rank r's whole input ``[tokens, in]``; ``gate`` is ``[tokens, 1]``, the argument of extra-argument forwards.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    adapters: tuple[LayerAdapter, ...]
    inputs: tuple[Tensor, ...]
    gate: Tensor


@lru_cache(maxsize=16)
def values_of(case: Case) -> CaseTensors:
    """Draws the tensors; in the exact regime thinner and thinner until they are provably exact.

    Remembered for the few cases at hand, as subject and oracle ask for the same: not to be written to.
    """
    if case.regime is Regime.ROUNDED:
        return _draw(case, thinning=0)
    for thinning in range(_MAX_THINNING):
        tensors = _draw(case, thinning)
        if largest_sum(case, tensors) <= EXACT_LIMIT[case.dtype]:
            return tensors
    raise AssertionError(f"no exact values within {_MAX_THINNING} halvings: {case!r}")


def largest_sum(case: Case, tensors: CaseTensors) -> float:
    """An upper bound of any partial sum, in units of the smallest quantum: ``|x|·|W|ᵀ + s·|x|·|A|ᵀ·|B|ᵀ + |b|``."""
    x = torch.cat(tensors.inputs).abs()
    if not x.numel():
        return 0.0
    weight = torch.cat(tensors.weights).abs()
    base = x @ weight.t()
    if tensors.biases:
        base = base + torch.cat(tensors.biases).abs()
    largest = _largest(base)
    unit = 1.0
    for adapter in tensors.adapters:
        unit = min(unit, adapter.scaling)
        for part in adapter.parts:
            if part is not None:
                hidden = x @ part.lora_a.abs().t()
                delta = hidden @ part.lora_b.abs().t() * max(adapter.scaling, 1.0)
                largest = max(largest, _largest(base) + _largest(delta), _largest(hidden))
    # A forward may scale (×2) or gate (×3) what it computes.
    return largest / unit * 4


def _largest(values: Tensor) -> float:
    return float(values.amax()) if values.numel() else 0.0  # an existing class may have an output without rows


def part_sizes(case: Case, adapter: AdapterSpec) -> tuple[int, ...]:
    """Rows of LoRA B of each part of ``adapter``: one per packed name, or one for the whole layer."""
    sizes = case.layer.output_sizes
    if adapter.fused or len(case.packed) <= 1:
        return (sum(sizes),)
    return tuple(map(sum, packed_outputs(case)))


def packed_outputs(case: Case) -> list[tuple[int, ...]]:
    """The sizes of the outputs that each packed name covers."""
    starts = [sum(case.packed[:i]) for i in range(len(case.packed) + 1)]
    return [case.layer.output_sizes[a:b] for a, b in pairwise(starts)]


def poisoned(case: Case) -> list[LayerAdapter]:
    """For each slot of the case an adapter of the largest rank, with every part present and nothing but NaN."""
    former = []
    for adapter in case.adapters:
        parts = tuple(
            SubAdapter(
                torch.full((case.max_rank, case.layer.input_size), torch.nan, dtype=torch_dtype(case.dtype)),
                torch.full((rows, case.max_rank), torch.nan, dtype=torch_dtype(case.dtype)),
            )
            for rows in part_sizes(case, adapter)
        )
        former.append(LayerAdapter(parts, 1.0))
    return former


def laid_out(x: Tensor, layout: Layout) -> Tensor:
    """``x [tokens, width]`` with the same tokens in another memory layout or with more dimensions."""
    tokens, width = x.shape
    if layout is Layout.THREE_D:
        return x.view(2, tokens // 2, width) if tokens % 2 == 0 and tokens else x.view(1, tokens, width)
    if layout is Layout.FOUR_D:
        return x.view(1, tokens, 1, width)
    if layout is Layout.STRIDED:
        return x.repeat_interleave(2, dim=0)[::2]
    if layout is Layout.TRANSPOSED:
        return x.t().contiguous().t()
    return x


class _Source:
    """A stream of tensors from one integer; thinning n keeps about one value in 2ⁿ."""

    def __init__(self, case: Case, thinning: int) -> None:
        self._generator = torch.Generator().manual_seed(case.seed)
        self._exact = case.regime is Regime.EXACT
        self._dtype = torch_dtype(case.dtype)
        self._largest = 3 if case.dtype is Dtype.FLOAT32 and thinning < 2 else 1
        self._keep = 0.5**thinning if case.dtype is Dtype.FLOAT32 else 0.6 * 0.75**thinning

    def draw(self, *shape: int, fan_in: int = 1) -> Tensor:
        if not self._exact:
            values = torch.randn(shape, generator=self._generator, dtype=torch.float64) / fan_in**0.5
            rounded: Tensor = values.to(self._dtype).double()
            return rounded
        low = self._largest
        values = torch.randint(-low, low + 1, shape, generator=self._generator).double()
        if self._keep < 1:
            values *= torch.rand(shape, generator=self._generator) < self._keep
        return values

    def tokens(self, count: int, width: int) -> Tensor:
        """Like `draw`, but no token is zero in its first column: the first row of every A sees it."""
        values = self.draw(count, width)
        if self._exact:
            first = values[:, 0]
            first[first == 0] = 1.0
        return values

    def sparse(self, *shape: int, fan_in: int = 1) -> Tensor:
        """Like `draw`, but never zero everywhere, and with few values a row for the narrow dtypes."""
        values = self.draw(*shape, fan_in=fan_in)
        if self._exact and self._keep < 1:
            values *= torch.rand(shape, generator=self._generator) < 4 / max(4, shape[1])
        if self._exact:
            rows, columns = shape
            index = torch.arange(rows)
            values[index, index % columns] = 1.0
        return values


def _draw(case: Case, thinning: int) -> CaseTensors:
    source = _Source(case, thinning)
    layer = case.layer
    width = layer.input_size
    weights = tuple(source.draw(size, width, fan_in=width) for size in layer.output_sizes)
    biases = tuple(source.draw(size) for size in layer.output_sizes) if layer.bias else ()
    chosen: list[LayerAdapter] = []
    for adapter in case.adapters:
        present = adapter.present if not adapter.fused else (True,)
        sizes = part_sizes(case, adapter)
        parts = [
            SubAdapter(source.sparse(rank, width, fan_in=width), source.sparse(size, rank, fan_in=rank))
            for size, rank in zip(sizes, adapter.ranks or (adapter.rank,) * len(sizes), strict=True)
        ]
        filled = _filled(adapter.content, parts, chosen)
        kept = tuple(part if here else None for part, here in zip(filled, present, strict=True))
        chosen.append(LayerAdapter(kept, adapter.scaling))
    copies = case.tp_size if layer.disable_tp else 1
    own = [source.tokens(len(case.tokens), width) for _ in range(copies)]
    inputs = tuple(own[rank % copies] for rank in range(case.tp_size))
    gate = 1.0 + torch.arange(len(case.tokens), dtype=torch.float64).remainder(3).view(-1, 1)
    return CaseTensors(weights, biases, tuple(chosen), inputs, gate)


def _filled(content: Content, parts: list[SubAdapter], former: list[LayerAdapter]) -> list[SubAdapter | None]:
    """The parts with what is peculiar about their values; ``former`` are the adapters before."""
    if content is Content.ZERO:
        return [SubAdapter(torch.zeros_like(part.lora_a), torch.zeros_like(part.lora_b)) for part in parts]
    if content is Content.LONE:
        return [SubAdapter(_lone(part.lora_a), _lone(part.lora_b)) for part in parts]
    return list(former[0].parts) if content is Content.EQUAL and former else [*parts]


def _lone(matrix: Tensor) -> Tensor:
    """Zeros, but for the first element, which is not zero."""
    lone = torch.zeros_like(matrix)
    lone[0, 0] = matrix[0, 0] if matrix[0, 0] else 1.0
    return lone


def rank_input(case: Case, tensors: CaseTensors, rank: int) -> Tensor:
    """What the model hands rank ``rank``: its columns where the input is parallel already, the whole otherwise."""
    x = tensors.inputs[rank]
    layer = case.layer
    if layer.family is Family.ROW and layer.input_is_parallel and case.layer_tp_size > 1:
        columns = layer.input_size // case.layer_tp_size
        x = x.narrow(1, rank * columns, columns).contiguous()
    return x


def product_alone(case: Case) -> Case:
    """The case of a sibling that multiplies with the weight itself: no bias, nothing gathered or reduced."""
    layer = replace(case.layer, bias=False, gather_output=False, reduce_results=False, return_bias=False)
    return replace(case, layer=layer, subclass=replace(case.subclass, forward=Forward.INHERITED))
