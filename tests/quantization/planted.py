"""Bugs of quantized base layers, and of LoRA on them (MATH-11, UNWRAP-2, WRAP-8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lora_compat
from lora_compat import own_loaders, quantization, wrapper
from lora_compat.interception import InterceptedApply, delta_of
from lora_compat.quantization import (
    BlockFp8LinearMethod,
    DynamicFp8LinearMethod,
    Int8LinearMethod,
    TensorFp8LinearMethod,
    int4,
)
from lora_compat.quantization.protocol import power_of_two_scale
from tests.mutants.planting import plant


@plant(
    Int8LinearMethod,
    "dequantize",
    origin="scale of the wrong channel",
    clauses="MATH-11",
    anomalies="base-misquantized",
)
def the_next_rows_scale(original):
    """Every row is dequantized with the scale of the row before it."""

    def dequantize(self, layer):
        return (layer.weight.detach().float() * layer.weight_scale.detach().roll(1, 0)).to(layer.params_dtype)

    return dequantize


@plant(int4, "dequantize_groups", origin="group off by one", clauses="MATH-11", anomalies="base-misquantized")
def groups_begin_a_column_late(original):
    """A group's first column is dequantized with the scale of the group before."""

    def dequantize_groups(values, scale, group_size):
        late = int4.spread(scale, group_size, values.shape[1]).roll(1, 1)
        return (values - int4.ZERO_POINT).float() * late

    return dequantize_groups


@plant(int4, "unpack", origin="packed order", clauses="MATH-11", anomalies="base-misquantized")
def highest_bits_first(original):
    """The values of a word are read from its highest bits down."""

    def unpack(words, columns):
        values = (words.unsqueeze(2) >> int4._shifts(words).flip(0)) & 15
        return values.flatten(1)[:, :columns]

    return unpack


@plant(int4, "pack", origin="packed order of AWQ", clauses="MATH-11", anomalies="base-misquantized")
def even_values_before_odd_ones(original):
    """The values of a word are interleaved while packing, and not while unpacking."""

    def pack(values):
        columns = values.shape[1]
        padded = nn.functional.pad(values, (0, -columns % 8), value=int4.ZERO_POINT)
        order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
        return original(padded.view(values.shape[0], -1, 8)[:, :, order].flatten(1))

    return pack


@plant(int4, "unpack", origin="sign of a shifted word", clauses="MATH-11", anomalies="base-misquantized")
def the_last_of_a_word_keeps_its_sign(original):
    """A word is shifted with its sign, so that large last values come out negative."""

    def unpack(words, columns):
        values = words.unsqueeze(2) >> int4._shifts(words)
        values[..., :-1] &= 15
        return values.flatten(1)[:, :columns]

    return unpack


@plant(
    BlockFp8LinearMethod, "dequantize", origin="DeepSeek-V3 blocks", clauses="MATH-11", anomalies="base-misquantized"
)
def blocks_on_their_side(original):
    """Height and width of a block are taken for each other where the scales allow it."""

    def dequantize(self, layer):
        stored, scale = layer.weight.detach(), layer.weight_scale_inv.detach()
        high, wide = self.block
        spread = scale.repeat_interleave(wide, 0).repeat_interleave(high, 1)
        if any(have < need for have, need in zip(spread.shape, stored.shape, strict=True)):
            return original(self, layer)
        return (stored.float() * spread[: stored.shape[0], : stored.shape[1]]).to(layer.params_dtype)

    return dequantize


@plant(
    TensorFp8LinearMethod,
    "dequantize",
    origin="weight_scale and weight_scale_inv",
    clauses="MATH-11",
    anomalies="base-misquantized",
)
def divided_by_the_scale(original):
    """The scale is taken for its inverse."""

    def dequantize(self, layer):
        return (layer.weight.detach().float() / layer.weight_scale.detach()).to(layer.params_dtype)

    return dequantize


@plant(TensorFp8LinearMethod, "dequantize", origin="overflow", clauses="MATH-11", anomalies="base-misquantized")
def one_weight_is_no_number(original):
    """The first weight overflows while its scale is applied."""

    def dequantize(self, layer):
        weight = original(self, layer)
        weight[0, 0] = torch.nan
        return weight

    return dequantize


@plant(lora_compat, "dense_weight", origin="GPTQ layout", clauses="UNWRAP-2", anomalies="hidden-attribute")
def a_packed_weight_comes_transposed(original):
    """The dense weight of a layer that stores its columns packed is given as [in, out]."""

    def dense_weight(module):
        dense = original(module)
        return dense.t() if getattr(lora_compat.unwrap(module), "qweight", None) is not None else dense

    return dense_weight


@plant(
    lora_compat,
    "dense_weight",
    origin="symmetric and asymmetric int4",
    clauses="UNWRAP-2",
    anomalies="hidden-attribute",
)
def the_zero_point_stays_in(original):
    """The dense weight of packed integers keeps the offset they are stored with."""

    def dense_weight(module):
        layer = lora_compat.unwrap(module)
        if getattr(layer, "weight_packed", None) is None:
            return original(module)
        values = int4.unpack(layer.weight_packed.detach().as_subclass(Tensor), int(layer.weight_shape[1]))
        group = layer.quant_method.group_size
        scale = int4.spread(layer.weight_scale.detach(), group, values.shape[1])
        return (values.float() * scale).to(layer.params_dtype)

    return dense_weight


@plant(lora_compat, "dense_weight", origin="FP8 read as it is", clauses="UNWRAP-2", anomalies="hidden-attribute")
def block_scales_forgotten(original):
    """The dense weight of an FP8 layer with blocks lacks its scales."""

    def dense_weight(module):
        layer = lora_compat.unwrap(module)
        blocks = getattr(layer, "weight_scale_inv", None) is not None
        return layer.weight.detach().to(layer.params_dtype) if blocks else original(module)

    return dense_weight


@plant(wrapper, "know_lora", origin="P1, TensorRT-LLM #6698", clauses="WRAP-8", anomalies="weight-stolen")
def only_dense_weights_are_watched(original):
    """A quantized weight tells nobody that it is read."""
    dense = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return lambda weight, delta: weight.dtype in dense and original(weight, delta)


@plant(
    wrapper,
    "know_lora",
    origin="FP8 counts as floating point",
    clauses="WRAP-8",
    anomalies="scale-wrong weight-stolen",
)
def any_floating_point_weight_is_dense(original):
    """A product with an FP8 weight gets the contribution, which the scale then multiplies."""

    def know_lora(weight, delta):
        known = original(weight, delta)
        weight._lora_quantized = weight._lora_quantized and not weight.dtype.is_floating_point
        return known

    return know_lora


@plant(
    wrapper,
    "_dtype_and_device",
    origin="dtype of the stored weight",
    clauses="MATH-11",
    anomalies="raised delta-dropped delta-imprecise",
)
def adapters_in_the_stored_dtype(original):
    """Slots take on the dtype of the weight as it is stored."""

    def dtype_and_device(layer):
        weight = wrapper.stored_weight(layer)
        return weight.dtype, weight.device

    return dtype_and_device


@plant(wrapper, "stored_weight", origin="D14, vllm #57503", clauses="MATH-11", anomalies="raised")
def a_weight_that_is_none(original):
    """Every layer is taken to have a weight."""
    return lambda layer: layer.weight.data and None if layer.weight is None else original(layer)


@plant(own_loaders, "stored_weight", origin="own loaders, quantized", clauses="MATH-11", anomalies="raised")
def own_loaders_find_no_weight(original):
    """Adapters of a class with its own loader are cut by a weight that packed layers do not have."""
    return lambda layer: layer.weight


@plant(InterceptedApply, "__call__", origin="W8A8", clauses="MATH-17", anomalies="delta-behind-quantizer")
def adapters_behind_the_activation_quantizer(original):
    """On a W8A8 layer the adapters are given what the kernel makes of the activations."""

    def call(self, layer, x, bias=None):
        found = delta_of(layer)
        if found is None or not found.active or not isinstance(layer.quant_method, DynamicFp8LinearMethod):
            return original(self, layer, x, bias)
        scale = power_of_two_scale(x.float().abs().amax(dim=-1, keepdim=True), 448)
        seen = (x.float() / scale).to(torch.float8_e4m3fn).float() * scale
        with torch._C.DisableTorchFunctionSubclass():
            output = self.apply(layer, x, bias)
        return found.add_to(output, seen.to(x.dtype))

    return call


@plant(quantization.fp8, "to_e4m3", origin="scale per token", clauses="MATH-17", anomalies="base-misquantized")
def everything_saturates_early(original):
    """Values beyond half of what e4m3 holds saturate."""
    return lambda scaled: original(scaled.clamp(-224, 224))
