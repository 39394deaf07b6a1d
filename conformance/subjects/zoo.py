"""Recipes for linear classes of vLLM whose constructors ask for more than sizes (releases 0.32 and 0.33).

Each builds the class as its own model does, with the shards that the model replicates, and says which checkpoint
tensors the class takes. vLLM is imported when a recipe runs, after the suite has prepared it.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from conformance.subjects.recipes import Geometry, recipe
from lora_compat.families import Family
from strategies.cases import LayerSpec


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"vllm.{module}"), name)


def _extras(geometry: Geometry) -> dict[str, Any]:
    """What the models pass on besides sizes."""
    given: dict[str, Any] = {"bias": geometry.options["bias"]}
    if geometry.quant_config is not None:
        given["quant_config"] = geometry.quant_config
    return given


def _three(layer: LayerSpec) -> tuple[int, ...]:
    sizes = layer.output_sizes
    return sizes[0], sizes[1 % len(sizes)], sizes[2 % len(sizes)]


@recipe(outputs=_three)
def kimi_k3_qkv_gate(geometry: Geometry) -> nn.Module:
    """Latent q and kv, whole on every rank, and the output gate, cut."""
    cls = _class("model_executor.layers.linear", "KimiK3MergedQKVGateLinear")
    q_lora_rank, kv_lora_rank, gate = geometry.output_sizes
    return cls(geometry.input_size, q_lora_rank, kv_lora_rank, 0, gate, 1, **_extras(geometry))  # type: ignore[no-any-return]


def _with_indexer(layer: LayerSpec) -> tuple[int, ...]:
    assert layer.heads is not None
    q, k, v = layer.heads.output_sizes
    return q, k, v, k, layer.heads.size


@recipe(outputs=_with_indexer, shard_ids=("q", "k", "v", "index_q", "index_k"))
def minimax_m3_indexer(geometry: Geometry) -> nn.Module:
    """The indexer's queries go with the KV heads, its one key is whole on every rank."""
    cls = _class("model_executor.layers.linear", "MinimaxM3QKVParallelLinearWithIndexer")
    heads = geometry.heads
    assert heads is not None
    return cls(  # type: ignore[no-any-return]
        geometry.input_size,
        heads.size,
        heads.query,
        heads.key_value,
        heads.key_value,
        heads.size,
        **_extras(geometry),
    )


def _last_whole(module: str, geometry: Geometry) -> nn.Module:
    cls = _class(module, "_KimiGDNMergedColumnParallelLinear")
    last = len(geometry.output_sizes) - 1
    return cls(  # type: ignore[no-any-return]
        geometry.input_size,
        list(geometry.output_sizes),
        replicated_shard_id=last,
        tp_size=geometry.tp_size,
        **_extras(geometry),
    )


@recipe()
def kimi_gdn(geometry: Geometry) -> nn.Module:
    """The last output is whole on every rank."""
    return _last_whole("model_executor.layers.mamba.gdn.kimi_gdn_linear_attn", geometry)


@recipe()
def kimi_k3_kda(geometry: Geometry) -> nn.Module:
    """The last output is whole on every rank."""
    return _last_whole("models.kimi_k3.nvidia.kda", geometry)


@recipe()
def glm5next_kda(geometry: Geometry) -> nn.Module:
    """The last output, of three the last two, are whole on every rank."""
    cls = _class("models.glm5next.common.kda", "_Glm5NextMergedColumnParallelLinear")
    count = len(geometry.output_sizes)
    return cls(  # type: ignore[no-any-return]
        geometry.input_size,
        list(geometry.output_sizes),
        replicated_shard_ids=tuple(range(count))[-2:] if count > 2 else (count - 1,),
        tp_size=geometry.tp_size,
        **_extras(geometry),
    )


def _muse(layer: LayerSpec) -> tuple[int, ...]:
    size = layer.output_sizes[0]
    return 2 * size, size, size, 2 * size


@recipe(outputs=_muse, shard_ids=("q", "k", "v", "o_gate"))
def muse_spark_qkvo(geometry: Geometry) -> nn.Module:
    """Heads of size 1: q and the output gate have two for each KV head."""
    cls = _class("models.muse_spark.common.layers", "MuseSpark1xQKVOGateParallelLinear")
    query, key_value, *_ = geometry.output_sizes
    given = {} if geometry.quant_config is None else {"quant_config": geometry.quant_config}
    layer: Any = cls(geometry.input_size, 1, query, key_value, **given)
    # Its models load through `load_weights`, which calls this method and not what the weight carries.
    layer.weight.weight_loader = layer.weight_loader
    return layer  # type: ignore[no-any-return]


def _packed_qkv(layer: LayerSpec) -> tuple[int, ...]:
    q, kv, index = _three(layer)
    kv = 1 if layer.input_size % 2 else kv  # fewer KV heads than ranks, or as many or more
    return q, kv, kv, index


@recipe(outputs=_packed_qkv)
def qwen4_exp_qsa(geometry: Geometry) -> nn.Module:
    """Heads of size 1 packed behind a QKV layer's, with an indexer that is whole on every rank."""
    importlib.import_module("vllm.models.qwen4_exp.nvidia.model")  # alone, the class's module imports in a circle
    cls = _class("models.qwen4_exp.nvidia.qsa", "Qwen4ExpQSAQKVIndexerLinear")
    query, key_value, _, index = geometry.output_sizes
    qkv = _class("model_executor.layers.linear", "QKVParallelLinear")
    packed = qkv(geometry.input_size, 1, query, key_value, bias=False, params_dtype=geometry.dtype)
    return cls(packed, index, geometry.quant_config)  # type: ignore[no-any-return]


def _with_sparse_indexer(layer: LayerSpec) -> tuple[int, ...]:
    assert layer.heads is not None
    q, k, v = layer.heads.output_sizes
    return q, k, v, q, k, v, layer.heads.query


@recipe(outputs=_with_sparse_indexer, shard_ids=("q", "k", "v", "index_q", "index_k", "index_z", "index_g"))
def step5_qkv_indexer(geometry: Geometry) -> nn.Module:
    """An indexer with as many heads as attention, one provider group a rank."""
    cls = _class("models.step5.nvidia.model", "Step5FusedQKVIndexerLinear")
    heads = geometry.heads
    assert heads is not None
    return cls(  # type: ignore[no-any-return]
        geometry.input_size,
        heads.size,
        heads.query,
        heads.key_value,
        indexer_q_output_size=heads.query * heads.size,
        indexer_kv_output_size=heads.key_value * heads.size,
        gate_output_size=heads.query,
        proxy_dim=heads.size,
        index_tp_size=geometry.tp_size,
        params_dtype=geometry.dtype,
    )


@recipe()
def step5_index_tp(geometry: Geometry) -> nn.Module:
    """One provider group a rank."""
    assert geometry.family is Family.COLUMN
    cls = _class("models.step5.nvidia.model", "Step5SparseIndexerIndexTPLinear")
    return cls(  # type: ignore[no-any-return]
        geometry.input_size, geometry.output_size, params_dtype=geometry.dtype, index_tp_size=geometry.tp_size
    )
