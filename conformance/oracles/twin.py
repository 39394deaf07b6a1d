"""The oracle's twin: the dense mathematics of a case once more, in the case's own precision and with no layer at all.

A case asks for bits, or for an error bound. What plain products of the case's tensors cannot give, nobody can: then
the case, or the bound, is wrong, and not who is tested.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from conformance.implementations.dtypes import torch_dtype
from conformance.oracles.dense import dense_output
from conformance.oracles.linear import Expected
from conformance.values.linear import part_sizes, values_of
from lora_compat.adapters import SubAdapter
from strategies.cases import Case, Quantization
from strategies.subclasses import SubclassSpec


def twin_of(case: Case) -> tuple[Tensor, Expected]:
    """What plain products in the case's dtype give, and what they have to, of the family's own class, unquantized."""
    plain = replace(case, subclass=SubclassSpec(), quantization=Quantization.NONE)
    plain = replace(plain, layer=replace(plain.layer, skip_bias_add=False))
    return _products(plain), dense_output(plain)


def _products(case: Case) -> Tensor:
    """``x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ``, the first product rounded to the dtype, the others once they are added."""
    tensors, dtype = values_of(case), torch_dtype(case.dtype)
    x = tensors.inputs[0].to(dtype)
    bias = torch.cat(tensors.biases).to(dtype) if tensors.biases else None
    output = functional.linear(x, torch.cat(tensors.weights).to(dtype), bias)
    rows = []
    for token, index in enumerate(case.tokens):
        row = output[token]
        if index >= 0:
            loaded = tensors.adapters[index]
            parts = zip(loaded.parts, part_sizes(case, case.adapters[index]), strict=True)
            delta = [_delta(x[token], part, size, dtype) for part, size in parts]
            row = (row.float() + loaded.scaling * torch.cat(delta)).to(dtype)
        rows.append(row)
    return torch.stack(rows) if rows else output


def _delta(x: Tensor, part: SubAdapter | None, size: int, dtype: torch.dtype) -> Tensor:
    """``(x·Aᵀ)·Bᵀ`` in float32, of a tensor that is there."""
    if part is None:
        return torch.zeros(size)
    hidden = functional.linear(x.float(), part.lora_a.to(dtype).float())
    return functional.linear(hidden, part.lora_b.to(dtype).float())
