"""What SGLang calls a layer: it knows by the names of modules how their adapters are stacked, cut and placed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

from conformance.implementations.sglang.runtime import runtime
from lora_compat.families import Family
from strategies.cases import Case

MEMBERS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_q", "in_proj_k", "in_proj_v", "in_proj_z"),
}
_MERGED = {1: "fc1", 2: "gate_up_proj", 4: "in_proj_qkvz"}


def module_name(layer: nn.Module) -> str:
    """A name under which SGLang serves layers like ``layer``."""
    linear = runtime().linear
    if isinstance(layer, linear.QKVParallelLinear):
        return "qkv_proj"
    if isinstance(layer, linear.MergedColumnParallelLinear):
        return _MERGED[len(layer.output_sizes)]  # type: ignore[arg-type]
    if isinstance(layer, linear.RowParallelLinear):
        return "down_proj"
    return "fc1_latent_proj" if isinstance(layer, linear.ReplicatedLinear) else "fc1"


def unsupported_packing(case: Case) -> str | None:
    """Why SGLang has no adapters for a layer packed like that, or None."""
    outputs = len(case.layer.output_sizes)
    if case.layer.family is Family.MERGED_COLUMN and outputs not in _MERGED:
        return (
            f"its adapters are for merged layers of two outputs (gate_up_proj) or four (in_proj_qkvz), not {outputs}"
        )
    if len(case.packed) > 1 and len(case.packed) != outputs:
        return "each name in its adapters stands for one output of a packed layer, or for all"
    return None


class OneLayerModel(nn.Module):
    """A model of one layer, with what SGLang's memory pool and adapters read of a model and its configuration."""

    def __init__(self, name: str, wrapped: nn.Module, layer: Any) -> None:
        super().__init__()
        block = nn.Module()
        block.add_module(name, wrapped)
        self.layers = nn.ModuleList([block])
        heads = getattr(layer, "total_num_heads", 1)
        self.config = SimpleNamespace(
            num_hidden_layers=1,
            hidden_size=layer.input_size,
            vocab_size=1,
            num_attention_heads=heads,
            num_key_value_heads=getattr(layer, "total_num_kv_heads", heads),
            head_dim=getattr(layer, "head_size", 1),
        )
        self._sizes = layer.input_size, _outputs(layer)

    def get_hidden_dim(self, module_name: str, layer_idx: int) -> tuple[int, int]:
        """Inputs and outputs of the checkpoint's modules, whole."""
        return self._sizes


def _outputs(layer: Any) -> int:
    if hasattr(layer, "total_num_kv_heads"):
        key_value = layer.total_num_kv_heads * (layer.head_size + layer.v_head_size)
        return int(layer.total_num_heads * layer.head_size + key_value)
    return int(layer.output_size)
