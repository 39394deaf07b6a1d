"""What is right though it computes otherwise: equivalent mutants, each with the argument why nothing may report it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from unittest.mock import patch

import torch

from conformance.implementations.reference import ReferenceImplementation
from lora_compat import delta
from lora_compat.delta import LoRADelta
from lora_compat.families import FamilyRegistry
from lora_compat.quantization.protocol import UnquantizedLinearMethod
from strategies.cases import DTYPES, Dtype
from tests.mutants.planting import plant, plant_together, planted_in


@plant(delta, "shrink", origin="summation order", clauses="", anomalies="")
def summed_from_the_last_column(original):
    """The shrink sums its products from the last input column to the first: the bound counts the terms of a sum,
    in no order, and the exact regime makes every order exact."""
    return lambda x, lora_a, batch: original(x.flip(1), lora_a.flip(-1), batch)


@plant(delta, "shrink", origin="split K", clauses="", anomalies="")
def summed_in_two_halves(original):
    """The shrink sums two halves of the input columns by themselves, as a split-K kernel does: again an order."""

    def shrink(x, lora_a, batch):
        half = x.shape[1] // 2
        if not half:
            return original(x, lora_a, batch)
        return original(x[:, :half], lora_a[..., :half], batch) + original(x[:, half:], lora_a[..., half:], batch)

    return shrink


@plant(delta, "shrink", origin="a hidden in the dtype of x", clauses="", anomalies="")
def hidden_rounded_once(original):
    """The hidden is rounded once to the dtype of the input, as kernels with a narrow buffer do: the bound has a
    rounding for it, and small integers survive it."""
    return lambda x, lora_a, batch: original(x, lora_a, batch).to(x.dtype).float()


@plant(delta, "shrink", origin="wider sums", clauses="", anomalies="")
def hidden_in_double(original):
    """The hidden is summed in double precision: nearer to the truth than the bound asks for."""
    return lambda x, lora_a, batch: original(x.double(), lora_a.double(), batch).float()


@plant(delta, "expand", origin="order of the ranks of A", clauses="", anomalies="")
def expanded_from_the_last_rank(original):
    """The expand sums over the rank from its end."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        original(hidden.flip(-1), lora_b.flip(-1), scaling, batch, output, **options)

    return expand


@plant(delta, "expand", origin="order of the slices", clauses="", anomalies="")
def slices_expanded_one_by_one(original):
    """Each output slice is expanded by a call of its own, from the last to the first: they do not overlap."""

    def expand(hidden, lora_b, scaling, batch, output, *, slice_sizes, offset=0):
        starts = [sum(slice_sizes[:index]) for index in range(len(slice_sizes))]
        for index in reversed(range(len(slice_sizes))):
            rows = slice(starts[index], starts[index] + slice_sizes[index])
            original(
                hidden[:, index : index + 1].contiguous(), lora_b[:, rows].contiguous(), scaling, batch, output,
                slice_sizes=slice_sizes[index : index + 1], offset=offset + starts[index],
            )  # fmt: skip

    return expand


@plant(delta, "expand", origin="scaling folded into B", clauses="", anomalies="")
def scaling_folded_into_b(original):
    """The scaling multiplies B, rounded to the dtype of B, instead of the sum: the bound has a rounding for it."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        scaled = (lora_b.to(scaling.dtype) * scaling.view(-1, 1, 1)).to(lora_b.dtype)
        original(hidden, scaled, torch.ones_like(scaling), batch, output, **options)

    return expand


@plant(delta, "expand", origin="base and contribution rounded by themselves", clauses="", anomalies="")
def contribution_rounded_before_it_is_added(original):
    """The contribution is rounded to the output's dtype before it is added: one rounding more, which is counted."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        contribution = torch.zeros_like(output)
        original(hidden, lora_b, scaling, batch, contribution, **options)
        for _, tokens in batch.groups:
            output[tokens] += contribution[tokens]

    return expand


@plant(LoRADelta, "add_to", origin="S1 on CUDA, as its source suggests", clauses="", anomalies="")
def a_gather_nobody_reads(original):
    """A merged layer gathers a hidden that it does not need and ignores the surplus. All ranks do so alike, hence
    COMM-1 holds; COMM-2 is about layers that are not parallel; no value changes. It costs time, and no clause is
    about time."""

    def add_to(self, output, x):
        if self.slots.plan.family.packed and self.group.size > 1:
            self.group.all_gather(torch.zeros(1))
        return original(self, output, x)

    return add_to


def _cut(tensor):
    """What TF32 keeps of float32: eleven significant bits, the others cut off, as the hardware may."""
    return (tensor.view(torch.int32) & ~0x1FFF).view(torch.float32) if tensor.dtype is torch.float32 else tensor


@plant_together(origin="TF32 where it is declared", clauses="", anomalies="")
@contextmanager
def tf32_where_it_is_declared():
    """The factors of float32 products are cut to the bits of TF32, both of each of the adapters' and the input of the
    base layer's, and the implementation declares it: its cases are drawn so that the cut is exact, or judged by a
    bound that counts it."""
    apply, shrink, expand = UnquantizedLinearMethod.apply, delta.shrink, delta.expand

    def apply_to_cut(self, layer, x, bias=None):
        return apply(self, layer, _cut(x), bias)

    def shrink_of_cut(x, lora_a, batch):
        return shrink(_cut(x), _cut(lora_a), batch)

    def expand_of_cut(hidden, lora_b, *arguments, **options):
        return expand(_cut(hidden), _cut(lora_b), *arguments, **options)

    with (
        patch.object(ReferenceImplementation, "dtypes", lambda self, device: (Dtype.TF32, *DTYPES[1:])),
        patch.object(UnquantizedLinearMethod, "apply", apply_to_cut),
        patch.object(delta, "shrink", shrink_of_cut),
        patch.object(delta, "expand", expand_of_cut),
    ):
        yield


@plant(FamilyRegistry, "lookup", origin="caches", clauses="", anomalies="")
def lookups_remembered(original):
    """What a class was found to be is remembered per class and registry: classes do not change their bases."""
    known = {}

    def lookup(self, cls):
        key = (id(self), len(self._entries), cls)
        if key not in known:
            known[key] = original(self, cls)
        return known[key]

    return lookup


VARIANTS = planted_in(sys.modules[__name__])
