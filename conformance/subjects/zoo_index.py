"""Recipes for classes of released libraries whose constructors say too little: class path to recipe."""

from __future__ import annotations

_VLLM = "conformance.subjects.zoo"
_LINEAR = "vllm.model_executor.layers.linear"
_KIMI = "vllm.model_executor.layers.mamba.gdn.kimi_gdn_linear_attn"

RECIPES: dict[str, str] = {
    f"{_LINEAR}:KimiK3MergedQKVGateLinear": f"{_VLLM}:kimi_k3_qkv_gate",
    f"{_LINEAR}:MinimaxM3QKVParallelLinearWithIndexer": f"{_VLLM}:minimax_m3_indexer",
    f"{_KIMI}:_KimiGDNMergedColumnParallelLinear": f"{_VLLM}:kimi_gdn",
    "vllm.models.kimi_k3.nvidia.kda:_KimiGDNMergedColumnParallelLinear": f"{_VLLM}:kimi_k3_kda",
    "vllm.models.glm5next.common.kda:_Glm5NextMergedColumnParallelLinear": f"{_VLLM}:glm5next_kda",
    "vllm.models.muse_spark.common.layers:MuseSpark1xQKVOGateParallelLinear": f"{_VLLM}:muse_spark_qkvo",
    "vllm.models.qwen4_exp.nvidia.qsa:Qwen4ExpQSAQKVIndexerLinear": f"{_VLLM}:qwen4_exp_qsa",
    "vllm.models.step5.nvidia.model:Step5FusedQKVIndexerLinear": f"{_VLLM}:step5_qkv_indexer",
    "vllm.models.step5.nvidia.model:Step5SparseIndexerIndexTPLinear": f"{_VLLM}:step5_index_tp",
}
