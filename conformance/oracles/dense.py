"""The whole layer by dense mathematics, without any class: a guard against a base layer that is itself wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from conformance.oracles.linear import Expected, merged_weights
from conformance.values.linear import CaseTensors, values_of
from lora_compat.families import Family
from strategies.cases import Case, Regime
from strategies.forwards import Forward
from strategies.subclasses import Loader


def keeps_columns(forward: Forward) -> bool:
    """Whether the class returns one column per output row, so that ranks can be put together again."""
    return forward not in (Forward.SPLIT, Forward.EXTRA_OUTPUT)


def dense_output(case: Case) -> Expected:
    """``x·(W + s·B·A)ᵀ + b`` of the whole, unsharded layer, and what the forward makes of it, without any class."""
    values, magnitudes = (_dense(case, values_of(case), absolute=absolute) for absolute in (False, True))
    rounded = case.regime is Regime.ROUNDED
    return Expected((values,), (magnitudes,) if rounded else (), (values,), (True,))


def _dense(case: Case, tensors: CaseTensors, *, absolute: bool) -> Tensor:
    forward = case.subclass.forward
    own = _multiplied(forward, tensors.inputs[0])
    x = own.abs() if absolute else own
    bias = torch.cat(tensors.biases) if tensors.biases and not case.layer.skip_bias_add else None
    rows = []
    for index, adapter in enumerate(case.tokens):
        weight = torch.cat(merged_weights(case, tensors, adapter, absolute=absolute))
        row = nn.functional.linear(x[index], weight, bias.abs() if absolute and bias is not None else bias)
        rows.append(row)
    whole = torch.stack(rows)
    if forward is Forward.SCALED:
        return whole * 2
    if forward is Forward.NON_LINEAR:
        return torch.relu(whole)
    if forward is Forward.MASKED:
        return whole * (tensors.inputs[0][:, :1] >= -1)
    return whole * tensors.gate if forward is Forward.EXTRA_ARGUMENT else whole


def _multiplied(forward: Forward, x: Tensor) -> Tensor:
    """What a class's own forward makes of its input before the product."""
    if forward is Forward.SCALED_INPUT:
        return x * 2
    if forward is Forward.LARGEST_OF_TWO:
        return torch.maximum(x.roll(1, 0), x)
    if forward is Forward.LARGEST_SO_FAR:
        return x.flip(0).cummax(0).values.flip(0)
    if forward is Forward.NORMALIZED:
        return x / 2.0 ** torch.frexp(x.abs().amax(dim=-1, keepdim=True)).exponent
    return x


def assembled(case: Case, outputs: Sequence[Tensor]) -> Tensor:
    """The whole layer's output from what every rank returned, by arithmetic that knows nothing of `ShardPlan`."""
    layer, ranks = case.layer, case.layer_tp_size
    if ranks == 1:
        return outputs[0]
    if layer.family is Family.ROW:
        return outputs[0] if layer.reduce_results else torch.stack([part.double() for part in outputs]).sum(0)
    if layer.gather_output:
        outputs = outputs[0].chunk(ranks, dim=-1)
    copies = [1] * len(layer.output_sizes)
    if layer.heads is not None:
        copies[1:] = [max(1, ranks // layer.heads.key_value)] * 2
    if case.subclass.loader is Loader.REPLICATED_LAST:
        copies[-1] = ranks
    local = [size * copy // ranks for size, copy in zip(layer.output_sizes, copies, strict=True)]
    parts = [output.split(local, dim=-1) for output in outputs]
    columns = [parts[rank][index] for index, copy in enumerate(copies) for rank in range(0, ranks, copy)]
    return torch.cat(columns, dim=-1)
