"""The right answer: the same class, loaded with merged weights through its own loader, run by its own forward.

For adapter (A, B, s) on any subclass the answer is what that subclass computes with ``W + s·B·A`` in place of ``W``.
Nothing is assumed about layout, so uneven slices, replicated shards, ``disable_tp``, custom loaders and custom
forwards are all inside one statement. It is computed in float64. `oracles/dense.py` is a second guard, against a base
layer that is itself wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conformance.engines.ranks import CollectiveMismatch, RankFailed, RankGroup, RankHung, RankLost
from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.protocol import LayerLibrary
from conformance.oracles.quantized import KernelBase, probed_weight, quantized_layer, weight_of
from conformance.subjects.building import build_layer, call, flatten, load_weights
from conformance.subjects.outcomes import HarnessError
from conformance.subjects.subject import Subject
from conformance.values.linear import CaseTensors, part_sizes, rank_input, values_of
from lora_compat.families import Family
from strategies.cases import Case, Dtype, Quantization, Regime
from strategies.forwards import Forward
from strategies.quantization import OF_ACTIVATIONS


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What one rank must return, flattened.

    ``values[i]`` is float64; ``magnitudes[i]`` is the same forward over absolute values (rounded regime only), which
    bounds every intermediate; ``base[i]`` is the answer without adapters; ``by_token[i]`` says whether the first
    dimension counts tokens (an output bias does not).
    """

    values: tuple[Tensor, ...]
    magnitudes: tuple[Tensor, ...]
    base: tuple[Tensor, ...]
    by_token: tuple[bool, ...]


def merged_weights(case: Case, tensors: CaseTensors, adapter: int, *, absolute: bool = False) -> tuple[Tensor, ...]:
    """``W + s·B·A`` per output, or ``|W| + s·|B|·|A|``; the base weights for adapter -1."""
    weights = [weight.abs() if absolute else weight for weight in tensors.weights]
    if adapter < 0:
        return tuple(weights)
    loaded = tensors.adapters[adapter]
    delta = []
    for part, rows in zip(loaded.parts, part_sizes(case, case.adapters[adapter]), strict=True):
        if part is None:
            delta.append(torch.zeros(rows, case.layer.input_size, dtype=torch.float64))
        else:
            a, b = (part.lora_a.abs(), part.lora_b.abs()) if absolute else (part.lora_a, part.lora_b)
            delta.append(loaded.scaling * (b @ a))
    parts = torch.cat(delta).split([weight.shape[0] for weight in weights])
    return tuple(weight + part for weight, part in zip(weights, parts, strict=True))


def expected_on(
    case: Case, tensors: CaseTensors, library: LayerLibrary, group: RankGroup, *, behind_quantizer: bool = False
) -> Expected:
    """The right answer on one rank; a rank program, as the class may issue collectives.

    With ``behind_quantizer`` what an implementation gives that hands its adapters the activations as a kernel that
    quantizes them has them.
    """
    runs = _MergedRuns(case, tensors, library, group, behind_quantizer)
    values = runs.per_token(absolute=False)
    magnitudes = runs.per_token(absolute=True) if case.regime is Regime.ROUNDED else ()
    return Expected(values, magnitudes, runs.of_adapter(-1, absolute=False), runs.by_token)


def expected_of(subject: Subject, case: Case, tensors: CaseTensors | None = None) -> list[Expected]:
    """The right answer on each rank, for the case's own tensors unless others are given.

    Raises:
        HarnessError: the base layer cannot run by itself.
    """
    values = tensors or values_of(case)
    try:
        return subject.engine.run(
            case.tp_size, lambda group: expected_on(case, values, subject.implementation.layers, group)
        )
    except (RankFailed, RankHung, RankLost, CollectiveMismatch) as error:
        raise HarnessError(f"the base layer cannot run by itself: {error}") from error


class _MergedRuns:
    """Forwards of one float64 layer, reloaded with the merged weights of one adapter after the other."""

    def __init__(
        self, case: Case, tensors: CaseTensors, library: LayerLibrary, group: RankGroup, behind_quantizer: bool
    ) -> None:
        self._case, self._tensors, self._library = case, tensors, library
        self._group = group
        self._stored: Tensor | None = None
        self._kernel: KernelBase | None = None
        # What an existing class's own forward computes may round: then the same operations on the same, exact product
        # give the same bits, and only they do.
        rounds = case.subclass.target is not None and case.subclass.changes_forward and case.regime is Regime.EXACT
        dtype = torch_dtype(case.dtype) if rounds else torch.float64
        with library.ranked(group):
            self._layer = build_layer(case, library, dtype)
            if case.quantization is not Quantization.NONE:
                self._take_stored_weight(behind_quantizer)
        self._x = rank_input(case, tensors, group.rank).to(dtype)
        self._done: dict[tuple[int, bool], tuple[Tensor, ...]] = {}
        self.by_token: tuple[bool, ...] = ()

    def _take_stored_weight(self, behind_quantizer: bool) -> None:
        """The base weight that the quantized layer really multiplies with takes the place of the checkpoint's."""
        layer, columns = quantized_layer(self._case, self._tensors, self._library)
        self._stored = probed_weight(layer, columns, self._case).to(weight_of(self._layer).dtype)
        if self._case.quantization in OF_ACTIVATIONS:
            self._kernel = KernelBase(layer, self._case, behind=behind_quantizer)
        none = tuple(torch.zeros_like(weight) for weight in self._tensors.weights)
        self._tensors = replace(self._tensors, weights=none)

    def of_adapter(self, adapter: int, *, absolute: bool) -> tuple[Tensor, ...]:
        """All tokens with one adapter."""
        key = (adapter, absolute)
        if key not in self._done:
            weights = merged_weights(self._case, self._tensors, adapter, absolute=absolute)
            biases = [bias.abs() if absolute else bias for bias in self._tensors.biases]
            with self._library.ranked(self._group):
                if self._case.subclass.forward is Forward.CACHED_COPY:  # of what was loaded before
                    self._layer = build_layer(self._case, self._library, self._x.dtype)
                load_weights(self._case, self._library, self._layer, weights, biases)
                with self._base_product(absolute):
                    x = self._x.abs() if absolute else self._x
                    result = call(self._case, self._layer, x, self._tensors.gate.to(x.dtype))
            outputs = flatten(result)
            self.by_token = tuple(output is not getattr(self._layer, "bias", None) for output in outputs)
            self._done[key] = tuple(output.detach().clone() for output in outputs)
        return self._done[key]

    @contextmanager
    def _base_product(self, absolute: bool) -> Iterator[None]:
        """Adds the base weight to the s·B·A just loaded, or has the quantized kernel itself multiply with it."""
        if self._kernel is not None and not absolute:
            layer: Any = self._layer
            own, layer.quant_method = layer.quant_method, self._kernel
            try:
                yield
            finally:
                layer.quant_method = own
            return
        if self._stored is not None:
            weight_of(self._layer).data.add_(self._stored.abs() if absolute else self._stored)
        yield

    def per_token(self, *, absolute: bool) -> tuple[Tensor, ...]:
        """Every token with its own adapter."""
        adapters = sorted(set(self._case.tokens)) or [-1]
        combined = [output.clone() for output in self.of_adapter(adapters[0], absolute=absolute)]
        for adapter in adapters[1:]:
            rows = torch.tensor([index for index, own in enumerate(self._case.tokens) if own == adapter])
            outputs = self.of_adapter(adapter, absolute=absolute)
            for total, output, by_token in zip(combined, outputs, self.by_token, strict=True):
                if by_token:
                    total[rows] = output[rows]
        return tuple(combined)


def error_bound(case: Case, magnitude: Tensor) -> Tensor:
    """How far a correct implementation may be from the float64 answer, per element (rounded regime).

    With ``u`` the unit roundoff of the case's dtype and ``M = |x|·|W|ᵀ + s·|x|·|A|ᵀ·|B|ᵀ + |b|`` run through the
    class's own forward, every intermediate is at most ``M``, and each of these may round once to the dtype: the base
    product, the bias, the scaling folded into B, the shrunk hidden, the expanded product, the addition, and up to
    two operations of the forward's own; a sum over ranks rounds once more per rank, for hidden and for output. The
    sums themselves round once per term in float32 (their accumulation dtype), or in the dtype if that is float32:
    ``in + rank`` terms, and the tree over slices. Terms in ``u²`` are under a per cent as long as the count times
    ``u`` is under a tenth, which the 1.01 covers; narrower than that the bound is honest but loose, and the signal
    gate keeps such cases from passing unseen.

    A product in TF32 cuts both factors to eleven significant bits, by up to ``2⁻¹⁰`` of each, and a tensor core adds
    without rounding to nearest, which doubles what a term of the sum may lose. No value passes more than two products,
    shrink and expand: four factors.
    """
    unit = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[torch_dtype(case.dtype)]
    cut, term = (4 * 2.0**-10, 2.0**-23) if case.dtype is Dtype.TF32 else (0.0, 2.0**-24)
    ranks = case.layer_tp_size if case.layer.family is Family.ROW or case.fully_sharded else 1
    rounded = 8 + 2 * (ranks - 1)
    summed = case.layer.input_size + case.max_rank
    smallest = 2.0**-24 if case.dtype.value == "float16" else 0.0  # subnormals of float16 round absolutely
    return 1.01 * (rounded * unit + cut + summed * term) * magnitude + rounded * smallest


def signal(expected: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """The largest change that the adapters make to any output."""
    return max((float((a - b).abs().max()) for a, b in zip(expected, base, strict=True) if a.numel()), default=0.0)
