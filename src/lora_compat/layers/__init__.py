"""Torch-only linear layers of the five families, with the constructor and attribute names vLLM's have.

A subclass written against these runs against vLLM's by changing its import. Weights are checkpoint tensors
(``[out, in]``) loaded through each layer's ``weight_loader``, which takes the part its rank owns.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from lora_compat.families import registry
from lora_compat.family import Family
from lora_compat.layers.base import LinearBase
from lora_compat.layers.column import ColumnParallelLinear
from lora_compat.layers.packed import MergedColumnParallelLinear, QKVParallelLinear
from lora_compat.layers.replicated import ReplicatedLinear
from lora_compat.layers.row import RowParallelLinear
from lora_compat.parallel import TensorParallelGroup

__all__ = [
    "ColumnParallelLinear",
    "LinearBase",
    "MergedColumnParallelLinear",
    "QKVParallelLinear",
    "ReplicatedLinear",
    "RowParallelLinear",
]


def _group_of(layer: nn.Module) -> TensorParallelGroup:
    return cast(LinearBase, layer).tp_group


for _base, _family in (
    (ReplicatedLinear, Family.REPLICATED),
    (ColumnParallelLinear, Family.COLUMN),
    (MergedColumnParallelLinear, Family.MERGED_COLUMN),
    (QKVParallelLinear, Family.QKV),
    (RowParallelLinear, Family.ROW),
):
    registry.register(_base, _family, _group_of)
