"""Bugs of the arithmetic: scaling, bias, precision, quantized layers (MATH-1, MATH-9 to MATH-12)."""

from __future__ import annotations

import torch

from lora_compat import delta
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.delta import LoRADelta
from lora_compat.families import Family
from lora_compat.interception import InterceptedApply, delta_of
from lora_compat.slots import SlotBuffers
from tests.mutants.planting import plant


def scaled_by(change):
    """`SlotBuffers.load` with another scaling."""
    return lambda original: (
        lambda self, slot, adapter: original(self, slot, LayerAdapter(adapter.parts, change(adapter.scaling)))
    )


@plant(SlotBuffers, "load", origin="scaling lost by the manager", clauses="MATH-12 MATH-1", anomalies="scale-dropped")
def scaling_lost(original):
    """The scaling is 1 for every adapter."""
    return scaled_by(lambda scaling: 1.0)(original)


@plant(SlotBuffers, "load", origin="scaled in B and in the kernel", clauses="MATH-12 MATH-1", anomalies="scale-twice")
def scaling_applied_twice(original):
    """The scaling is folded into B and applied by the kernel."""
    return scaled_by(lambda scaling: scaling * scaling)(original)


@plant(SlotBuffers, "load", origin="M9, vllm #6909", clauses="MATH-1", anomalies="scale-wrong")
def scaling_over_the_rank_once_more(original):
    """The scaling is divided by the square root of the rank, whatever it was."""

    def load(self, slot, adapter):
        rank = max(part.rank for part in adapter.parts if part is not None)
        original(self, slot, LayerAdapter(adapter.parts, adapter.scaling / rank**0.5))

    return load


@plant(SlotBuffers, "load", origin="integers", clauses="MATH-12", anomalies="delta-dropped")
def scaling_rounded_down(original):
    """A scaling below one is rounded to zero."""
    return scaled_by(lambda scaling: scaling if scaling >= 1 else 0.0)(original)


@plant(
    SlotBuffers, "load", origin="a constant tolerance accepts it", clauses="MATH-12 MATH-1", anomalies="scale-wrong"
)
def scaling_off_by_a_quarter_per_cent(original):
    """The scaling is 1.0025 times what it should be."""
    return scaled_by(lambda scaling: scaling * 1.0025)(original)


@plant(
    SlotBuffers,
    "load",
    origin="scaling kept in the weights' dtype",
    clauses="MATH-1 MATH-4",
    anomalies="scale-wrong delta-imprecise",
)
def scaling_in_bfloat16(original):
    """The scaling is held in bfloat16, which a third does not fit."""
    return scaled_by(lambda scaling: float(torch.tensor(scaling).to(torch.bfloat16)))(original)


@plant(delta, "expand", origin="one scaling per batch", clauses="MATH-2", anomalies="scale-wrong")
def the_first_adapters_scaling_for_all(original):
    """The scaling of the batch's first adapter serves every adapter."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        first = next(slot for slot in batch.slots if slot >= 0)
        original(hidden, lora_b, scaling[first].expand_as(scaling), batch, output, **options)

    return expand


@plant(LoRADelta, "add_to", origin="D10", clauses="MATH-1", anomalies="delta-doubled")
def added_twice(original):
    """The contribution is added twice."""
    return lambda self, output, x: original(self, original(self, output, x), x)


@plant(LoRADelta, "add_to", origin="P1", clauses="MATH-1", anomalies="delta-dropped")
def never_added(original):
    """The contribution is computed and dropped."""

    def add_to(self, output, x):
        original(self, output.clone(), x)
        return output

    return add_to


@plant(LoRADelta, "add_to", origin="sign", clauses="MATH-1", anomalies="scale-wrong")
def subtracted(original):
    """The contribution is subtracted."""
    return lambda self, output, x: 2 * output - original(self, output.clone(), x)


@plant(delta, "expand", origin="one element", clauses="MATH-1", anomalies="delta-incomplete delta-dropped")
def the_first_column_is_left_out(original):
    """The first of several output columns gets nothing."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        first = output[:, 0].clone()
        original(hidden, lora_b, scaling, batch, output, **options)
        if output.shape[1] > 1:
            output[:, 0] = first

    return expand


@plant(delta, "expand", origin="masks of a kernel", clauses="MATH-1", anomalies="delta-incomplete")
def a_seventh_column_is_left_out(original):
    """The seventh output column gets nothing."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        seventh = output[:, 6:7].clone()
        original(hidden, lora_b, scaling, batch, output, **options)
        output[:, 6:7] = seventh

    return expand


@plant(SlotBuffers, "load", origin="one sign", clauses="MATH-1", anomalies="unexplained scale-wrong")
def odd_rows_of_b_change_sign(original):
    """Every second row of B is negated."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        self.lora_b[slot, 1::2] *= -1

    return load


@plant(SlotBuffers, "load", origin="B transposed", clauses="MATH-1", anomalies="delta-misplaced slices-swapped")
def rows_of_b_in_reverse(original):
    """Each output row takes the B row counted from the end."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        self.lora_b[slot] = self.lora_b[slot].flip(0)

    return load


@plant(delta, "shrink", origin="masks of a kernel", clauses="MATH-1", anomalies="delta-incomplete delta-dropped")
def the_last_input_column_is_left_out(original):
    """The shrink sums over all input columns but the last."""
    return lambda x, lora_a, batch: original(x[:, :-1], lora_a[..., :-1], batch)


@plant(delta, "shrink", origin="K in blocks", clauses="MATH-1", anomalies="delta-incomplete")
def input_columns_beyond_the_eighth(original):
    """The shrink sums over the first eight input columns."""
    return lambda x, lora_a, batch: original(x[:, :8], lora_a[..., :8], batch)


@plant(delta, "shrink", origin="accumulating in the dtype of x", clauses="MATH-10", anomalies="delta-imprecise")
def hidden_in_eight_bits(original):
    """The shrunk hidden is rounded to four significant bits."""

    def shrink(x, lora_a, batch):
        hidden = original(x, lora_a, batch)
        return hidden.to(torch.float8_e4m3fn).to(hidden.dtype)

    return shrink


@plant(SlotBuffers, "load", origin="lora_dtype", clauses="MATH-1 MATH-2", anomalies="delta-imprecise")
def weights_through_bfloat16(original):
    """A and B of a float16 or float32 deployment are rounded to bfloat16."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        for weights in (self.lora_a, self.lora_b):
            weights.copy_(weights.to(torch.bfloat16))

    return load


@plant(delta, "shrink", origin="TF32 where none is declared", clauses="MATH-1 MATH-2", anomalies="delta-imprecise")
def operands_of_ten_bits(original):
    """float32 inputs are rounded to ten significant bits, as tensor cores do unasked."""

    def shrink(x, lora_a, batch):
        if x.dtype is torch.float32:
            x = (x.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)
        return original(x, lora_a, batch)

    return shrink


@plant(
    delta,
    "shrink",
    origin="products summed in the narrow dtype",
    clauses="MATH-1 MATH-2 MATH-10",
    anomalies="delta-imprecise",
)
def summed_in_bfloat16(original):
    """The shrink rounds to bfloat16 after every term, whatever the dtype."""

    def shrink(x, lora_a, batch):
        total = original(x[:, :1], lora_a[..., :1], batch)
        for column in range(1, x.shape[1]):
            term = original(x[:, column : column + 1], lora_a[..., column : column + 1], batch)
            total = (total + term).to(torch.bfloat16).to(total.dtype)
        return total

    return shrink


@plant(delta, "expand", origin="+1 unit in the last place", clauses="MATH-1 MATH-2", anomalies="delta-imprecise")
def one_unit_in_the_last_place(original):
    """The last element written is one unit in the last place too large."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        original(hidden, lora_b, scaling, batch, output, **options)
        token = int(batch.groups[-1][1][-1])
        value = output[token, -1]
        output[token, -1] = torch.nextafter(value, torch.full_like(value, torch.inf))

    return expand


@plant(delta, "expand", origin="saturation", clauses="MATH-1", anomalies="result-clamped")
def large_results_are_clamped(original):
    """Results beyond ±24 are clamped."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        original(hidden, lora_b, scaling, batch, output, **options)
        for _, tokens in batch.groups:
            output[tokens] = output[tokens].clamp(-24, 24)

    return expand


@plant(InterceptedApply, "__call__", origin="fused bias", clauses="MATH-9", anomalies="bias-dropped")
def no_bias_with_adapters(original):
    """A batch with adapters is multiplied without the bias."""

    def call(self, layer, x, bias=None):
        found = delta_of(layer)
        return original(self, layer, x, None if found and found.active else bias)

    return call


@plant(InterceptedApply, "__call__", origin="bias once per rank", clauses="MATH-9", anomalies="bias-per-rank")
def bias_on_every_rank(original):
    """A row-parallel layer's bias is added on every rank."""

    def call(self, layer, x, bias=None):
        found = delta_of(layer)
        if found and found.slots.plan.family is Family.ROW and not layer.skip_bias_add:
            bias = layer.bias
        return original(self, layer, x, bias)

    return call


@plant(
    InterceptedApply, "__call__", origin="bias added by wrapper and kernel", clauses="MATH-9", anomalies="bias-doubled"
)
def bias_added_again(original):
    """The bias is added by the kernel and once more after the adapters."""

    def call(self, layer, x, bias=None):
        output = original(self, layer, x, bias)
        return output if bias is None or not delta_of(layer).active else output + bias

    return call


@plant(InterceptedApply, "__call__", origin="skip_bias_add", clauses="MATH-9", anomalies="bias-not-skipped")
def skip_bias_add_overlooked(original):
    """With adapters active a bias that should be handed back is added as well."""

    def call(self, layer, x, bias=None):
        found = delta_of(layer)
        skipped = found and found.active and layer.skip_bias_add and layer.tp_rank == 0
        return original(self, layer, x, layer.bias if skipped else bias)

    return call


@plant(LoRADelta, "add_to", origin="no dense weight, no delta", clauses="MATH-11", anomalies="delta-dropped")
def quantized_layers_get_nothing(original):
    """A layer whose weight is stored as integers gets no contribution."""

    def add_to(self, output, x):
        if hasattr(self.wrapper().base_layer, "weight_scale"):
            self.served += 1
            return output
        return original(self, output, x)

    return add_to


@plant(LoRADelta, "add_to", origin="one scale for all", clauses="MATH-11", anomalies="unexplained scale-wrong")
def the_contribution_is_dequantized_too(original):
    """The contribution is multiplied with the base weight's scale."""

    def add_to(self, output, x):
        scale = getattr(self.wrapper().base_layer, "weight_scale", None)
        base = output.clone()
        output = original(self, output, x)
        return output if scale is None else (base + (output - base) * scale.flatten()[0]).to(base.dtype)

    return add_to


@plant(LoRADelta, "add_to", origin="quantized activations", clauses="MATH-11", anomalies="delta-imprecise")
def adapters_see_quantized_activations(original):
    """On a quantized layer the adapters are given activations rounded to seven bits of their largest."""

    def add_to(self, output, x):
        if hasattr(self.wrapper().base_layer, "weight_scale"):
            scale = x.abs().amax().clamp(min=1e-6) / 127
            x = (torch.round(x / scale) * scale).to(x.dtype)
        return original(self, output, x)

    return add_to


# Of one input, and of one small entry, nothing is left.
@plant(
    SlotBuffers, "load", origin="only bfloat16", clauses="MATH-10 MATH-1", anomalies="delta-incomplete delta-dropped"
)
def bfloat16_loses_the_first_column_of_a(original):
    """A bfloat16 deployment loses the first column of A."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        if self.lora_a.dtype is torch.bfloat16:
            self.lora_a[slot, ..., 0] = 0

    return load


@plant(
    SlotBuffers, "load", origin="float16 range", clauses="MATH-10 MATH-1", anomalies="delta-incomplete delta-dropped"
)
def float16_flushes_the_small(original):
    """A float16 deployment flushes entries of B below a quarter to zero."""

    def load(self, slot, adapter):
        original(self, slot, adapter)
        if self.lora_b.dtype is torch.float16:
            self.lora_b[slot][self.lora_b[slot].abs() < 0.25] = 0

    return load


@plant(
    SlotBuffers, "load", origin="PEFT's transposed layout", clauses="MATH-1", anomalies="unexplained delta-misplaced"
)
def square_tensors_are_transposed(original):
    """Where B is square it is read transposed."""

    def load(self, slot, adapter):
        parts = [
            part and SubAdapter(part.lora_a, part.lora_b.t() if len(part.lora_b) == part.rank else part.lora_b)
            for part in adapter.parts
        ]
        original(self, slot, LayerAdapter(tuple(parts), adapter.scaling))

    return load
