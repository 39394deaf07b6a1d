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
        return _MERGED[len(layer.output_sizes)]
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


class ToyModel(nn.Module):
    """Holds one layer under the name it has in models, and has what SGLang's memory pool reads of a model.

    ``sizes`` are the inputs and outputs of the checkpoint's module, whole.
    """

    def __init__(self, name: str, wrapped: nn.Module, sizes: tuple[int, int], **config: int) -> None:
        super().__init__()
        *above, last = name.split(".")
        owner: nn.Module = self
        for part in above:
            owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(last, wrapped)
        layers = int(name.startswith("layers."))
        self.config = SimpleNamespace(**{"num_hidden_layers": layers, "hidden_size": 1, "vocab_size": 1, **config})
        self._sizes = sizes

    def get_hidden_dim(self, module_name: str, layer_idx: int) -> tuple[int, int]:
        """Asked for every buffer."""
        return self._sizes


def one_layer_model(wrapped: Any) -> tuple[str, ToyModel]:
    """The name of a linear layer, and a model of nothing else."""
    layer = wrapped.base_layer
    name = module_name(layer)
    return name, ToyModel(f"layers.0.{name}", wrapped, sizes_of(layer), **heads_of(layer))


def sizes_of(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a layer's checkpoint tensors; a QKV layer counts shared heads once for each rank."""
    if not heads_of(layer):
        return layer.input_size, layer.output_size
    queries, keys = layer.total_num_heads, layer.total_num_kv_heads
    return layer.input_size, queries * layer.head_size + keys * (layer.head_size + layer.v_head_size)


def heads_of(layer: Any) -> dict[str, int]:
    """What a model's configuration says of the heads of a QKV layer; nothing for other layers."""
    if not hasattr(layer, "total_num_heads"):
        return {}
    return {
        "num_attention_heads": layer.total_num_heads,
        "num_key_value_heads": layer.total_num_kv_heads,
        "head_dim": layer.head_size,
    }


def dress(model: Any) -> None:
    """Gives a tree of layers what SGLang's manager and memory pool read of a model.

    A block without a module of some name is asked for its sizes all the same: in a model those of other blocks.
    """
    sizes: dict[tuple[str, int], tuple[int, int]] = {}
    heads: dict[str, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        layer = runtime().memory_pool.get_layer_id(name)
        if layer is not None and isinstance(module, runtime().linear.LinearBase):
            sizes[name.rpartition(".")[2], layer] = sizes_of(module)
            heads |= heads_of(module)
    layers = 1 + max((layer for _, layer in sizes), default=0)
    heads = heads or {"num_attention_heads": 1}
    model.config = SimpleNamespace(num_hidden_layers=layers, hidden_size=1, vocab_size=1, **heads)
    config = model.config

    def get_hidden_dim(module_name: str, layer_idx: int) -> tuple[int, int]:
        found = [sizes[key] for key in ((module_name, layer_idx), *sizes) if key in sizes and key[0] == module_name]
        if found:
            return found[0]
        default: tuple[int, int] = runtime().lora_utils.get_default_hidden_dim(module_name, config, layer_idx)
        return default

    model.get_hidden_dim = get_hidden_dim
