"""Quantized base layers: which schemes are drawn, and how small their groups and blocks are."""

from __future__ import annotations

from dataclasses import replace

from strategies.cases import Case, Quantization

SCHEMES = tuple(scheme for scheme in Quantization if scheme is not Quantization.NONE)
# Schemes whose kernels quantize what they multiply with the weight, too.
OF_ACTIVATIONS = (Quantization.FP8_DYNAMIC,)
WEIGHT_ONLY = tuple(scheme for scheme in SCHEMES if scheme not in OF_ACTIVATIONS)
# A scale for a row or for all: a product may also be scaled after it is computed.
SCALED_BY_ROW = (Quantization.INT8, Quantization.FP8_TENSOR, Quantization.FP8_CHANNEL)
# Unquantized layers as often as all schemes together.
ANY = (*(Quantization.NONE for _ in SCHEMES), *SCHEMES)

# Drawn layers have few columns; groups and blocks are small enough that most have several, the last one cut short.
GROUP_SIZE = 2
BLOCK = (2, 3)
_WORDS = 3


def several_words(case: Case) -> Case:
    """Three times the columns where several values share a machine word, so that a row fills more than one word."""
    if case.quantization not in (Quantization.INT4_PACKED, Quantization.INT4_QWEIGHT):
        return case
    return replace(case, layer=replace(case.layer, input_size=case.layer.input_size * _WORDS))
