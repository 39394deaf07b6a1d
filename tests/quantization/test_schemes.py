"""The quantized layers themselves: what is stored, how long, and how near it comes to the checkpoint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.implementations.schemes import METHODS
from lora_compat import ReplicatedLinear
from lora_compat.quantization import (
    Int8LinearMethod,
    PackedInt4LinearMethod,
    QuantConfig,
    QweightInt4LinearMethod,
    int4,
    stored_weight,
)
from strategies.cases import Quantization
from strategies.quantization import SCHEMES


def quantized_layer(scheme: Quantization, weight: torch.Tensor) -> ReplicatedLinear:
    """A finished layer of that scheme with this checkpoint weight."""
    rows, columns = weight.shape
    layer = ReplicatedLinear(
        columns, rows, bias=False, params_dtype=weight.dtype, quant_config=QuantConfig(METHODS[scheme])
    )
    layer.weight_loader(layer.weight, weight)
    layer.quant_method.process_weights_after_loading(layer)
    return layer


@pytest.mark.parametrize("scheme", SCHEMES)
def test_small_integers_survive_exactly(scheme: Quantization) -> None:
    weight = torch.randint(-3, 4, (7, 19), generator=torch.Generator().manual_seed(1)).float()
    layer = quantized_layer(scheme, weight)
    assert torch.equal(layer.quant_method.dequantize(layer), weight)
    x = torch.eye(19)
    assert torch.equal(layer.quant_method.apply(layer, x).t(), weight)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_finishing_twice_changes_nothing(scheme: Quantization) -> None:
    layer = quantized_layer(scheme, torch.randn(4, 5, generator=torch.Generator().manual_seed(2)))
    before = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    layer.quant_method.process_weights_after_loading(layer)
    after = dict(layer.named_parameters())
    assert before.keys() == after.keys()
    for name, parameter in before.items():
        assert torch.equal(parameter.float(), after[name].float())


def test_the_field_finds_the_names_it_reads() -> None:
    weight = torch.randn(6, 17, generator=torch.Generator().manual_seed(3))
    packed = quantized_layer(Quantization.INT4_PACKED, weight)
    assert not hasattr(packed, "weight")
    assert (packed.weight_packed.shape, packed.weight_packed.dtype) == ((6, 3), torch.int32)
    assert packed.weight_scale.shape == (6, 9)
    assert packed.weight_shape.tolist() == [6, 17]
    columns = quantized_layer(Quantization.INT4_QWEIGHT, weight)
    assert columns.weight is None
    assert (columns.qweight.shape, columns.scales.shape) == ((3, 6), (9, 6))
    blocks = quantized_layer(Quantization.FP8_BLOCK, weight)
    assert (blocks.weight.dtype, blocks.weight_scale_inv.shape) == (torch.float8_e4m3fn, (3, 6))
    assert quantized_layer(Quantization.FP8_TENSOR, weight).weight_scale.shape == (1,)
    assert quantized_layer(Quantization.FP8_CHANNEL, weight).weight_scale.shape == (6, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_stored_weight_is_found_under_its_name(scheme: Quantization) -> None:
    layer = quantized_layer(scheme, torch.ones(2, 2))
    found = stored_weight(layer)
    assert found is not None
    assert found.dtype in (torch.int8, torch.int32, torch.float8_e4m3fn)
    assert stored_weight(torch.nn.Identity()) is None


@settings(max_examples=50, deadline=None, database=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_packing_is_undone_by_unpacking(rows: int, columns: int, seed: int) -> None:
    values = torch.randint(0, 16, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    words = int4.pack(values)
    assert words.shape == (rows, -(-columns // 8))
    assert torch.equal(int4.unpack(words, columns), values)


def test_the_first_value_of_a_word_is_in_its_lowest_bits() -> None:
    assert int4.pack(torch.tensor([[1, 2, 0, 0, 0, 0, 0, 15]])).tolist() == [[0x21 - (1 << 28)]]


def test_groups_and_methods_have_the_sizes_of_the_field_unless_told() -> None:
    assert PackedInt4LinearMethod().group_size == QweightInt4LinearMethod().group_size == 32
    assert Int8LinearMethod().quantize(torch.tensor([[127.0], [254.0]]))["weight_scale"].tolist() == [[1.0], [2.0]]
