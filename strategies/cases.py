"""The vocabulary: a `Case` is everything one check needs, as frozen data.

The ``repr`` of each spec is the constructor call that makes it. Sizes are those of the whole layer, before tensor
parallelism cuts it; every tensor of a case is a pure function of its ``seed`` (`conformance.values.linear`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lora_compat.families import Family
from strategies.codec import Named, Spec
from strategies.exactness import nearest_exact, require_exact
from strategies.subclasses import SubclassSpec


class WrapperKind(Named):
    """A module around a layer, by what it says of a quant method."""

    BARE = "bare"  # has no attribute quant_method
    NONE = "none"  # has one that is None
    FORWARDING = "forwarding"  # hands unknown attributes on to what it wraps


class Layout(Named):
    """How the input's tokens lie in memory."""

    TWO_D = "2d"
    THREE_D = "3d"
    FOUR_D = "4d"
    STRIDED = "strided"  # every second row of a larger tensor
    TRANSPOSED = "transposed"  # column-major


class Dtype(Named):
    """The dtype of weights and activations, named as torch names it, and what products make of it."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    TF32 = "tf32"  # float32 whose products keep eleven bits of each factor; declared, never drawn

    @property
    def of_tensors(self) -> str:
        """The dtype that tensors have, as torch names it."""
        return "float32" if self is Dtype.TF32 else self.value


DTYPES = (Dtype.FLOAT32, Dtype.BFLOAT16, Dtype.FLOAT16)


class Regime(Named):
    """How results are judged."""

    EXACT = "exact"  # small integers; equal bit for bit
    ROUNDED = "rounded"  # normal deviates; inside a derived bound


class Quantization(Named):
    """How the base weight is stored."""

    NONE = "none"
    INT8 = "int8"  # `weight` int8, a scale per output row
    INT4_PACKED = "int4_packed"  # `weight_packed` int32, no `weight`, a scale per group of columns
    INT4_QWEIGHT = "int4_qweight"  # `qweight` int32, transposed, `weight` None, a scale per group of columns
    FP8_TENSOR = "fp8_tensor"  # `weight` e4m3, one scale
    FP8_CHANNEL = "fp8_channel"  # `weight` e4m3, a scale per output row
    FP8_BLOCK = "fp8_block"  # `weight` e4m3, a scale per block
    FP8_DYNAMIC = "fp8_dynamic"  # like FP8_CHANNEL, and activations e4m3 with a scale per token


class Content(Named):
    """The values of an adapter."""

    DRAWN = "drawn"
    ZERO = "zero"
    LONE = "lone"  # of each part one element of A and one of B, which meet
    EQUAL = "equal"  # those of the first adapter, which is of the same ranks and parts


@dataclass(frozen=True, slots=True, repr=False)
class Heads(Spec):
    """Attention geometry of a QKV layer."""

    size: int = 1
    query: int = 1
    key_value: int = 1

    @property
    def output_sizes(self) -> tuple[int, int, int]:
        """Checkpoint rows of query, key and value."""
        return self.query * self.size, self.key_value * self.size, self.key_value * self.size


@dataclass(frozen=True, slots=True, repr=False)
class LayerSpec(Spec):
    """A linear layer: family, sizes, and every option its constructor has."""

    family: Family = Family.REPLICATED
    input_size: int = 1
    output_sizes: tuple[int, ...] = (1,)
    heads: Heads | None = None
    bias: bool = False
    skip_bias_add: bool = False
    return_bias: bool = True
    gather_output: bool = False
    input_is_parallel: bool = True
    reduce_results: bool = True
    disable_tp: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class AdapterSpec(Spec):
    """One adapter: its slot, rank and scaling, and which of the packed names it has.

    ``ranks`` has the rank of each packed name, of which ``rank`` is the largest; empty where all have that.
    """

    slot: int = 0
    rank: int = 1
    alpha: float = 1.0
    rslora: bool = False
    present: tuple[bool, ...] = (True,)
    fused: bool = False
    ranks: tuple[int, ...] = ()
    content: Content = Content.DRAWN

    @property
    def scaling(self) -> float:
        """``alpha / r``, or ``alpha / √r`` for rank-stabilised LoRA (arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def of_rank(self, rank: int) -> AdapterSpec:
        """The same adapter with all parts of another rank, and the scaling that it had."""
        return replace(self, rank=rank, alpha=self.scaling * rank, rslora=False, ranks=())

    def part(self, index: int) -> AdapterSpec:
        """What the adapter is for one of its packed names."""
        return self.of_rank(self.ranks[index]) if self.ranks else self

    def exact(self) -> AdapterSpec:
        """The same adapter with a scaling that the exact regime can have: the nearest power of two."""
        return replace(self, alpha=nearest_exact(self.scaling) * self.rank, rslora=False)


@dataclass(frozen=True, slots=True, repr=False)
class Case(Spec):
    """One check's whole input.

    ``packed`` has, for each name of the packed-modules list, how many consecutive outputs it covers; an empty
    tuple is a layer without such a list. ``tokens`` has, for each token, the index of its adapter in ``adapters``,
    or -1. ``nesting`` lists the modules around the layer, outermost first.

    Raises:
        ImpossibleCase: it claims to be exact, and has a scaling that is no power of two.
    """

    layer: LayerSpec = LayerSpec()
    subclass: SubclassSpec = SubclassSpec()  # noqa: RUF009 - frozen
    nesting: tuple[WrapperKind, ...] = ()
    tp_size: int = 1
    fully_sharded: bool = False
    max_loras: int = 1
    max_rank: int = 1
    packed: tuple[int, ...] = ()
    adapters: tuple[AdapterSpec, ...] = (AdapterSpec(),)
    tokens: tuple[int, ...] = (0,)
    layout: Layout = Layout.TWO_D
    dtype: Dtype = Dtype.FLOAT32
    regime: Regime = Regime.EXACT
    quantization: Quantization = Quantization.NONE
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.regime is Regime.EXACT:
            require_exact(adapter.scaling for adapter in self.adapters)

    def exact(self) -> Case:
        """The same case in the exact regime, with scalings that it can have."""
        return replace(self, regime=Regime.EXACT, adapters=tuple(adapter.exact() for adapter in self.adapters))

    @property
    def layer_tp_size(self) -> int:
        """Over how many ranks the layer itself is cut."""
        return 1 if self.layer.disable_tp or self.layer.family is Family.REPLICATED else self.tp_size

    @property
    def token_slots(self) -> tuple[int, ...]:
        """The slot that serves each token, -1 for none."""
        return tuple(self.adapters[index].slot if index >= 0 else -1 for index in self.tokens)
