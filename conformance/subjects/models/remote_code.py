"""Architectures whose code is published with their weights: what their config.json holds, and what tensors are called.

Each number is what published files have, or of their order; `configs.small_config` makes them small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RemoteCode:
    """One architecture.

    ``published`` is its config.json without what `COMMON` has, ``names`` are patterns of vLLM's names that
    checkpoints have otherwise, ``experts`` what they call an expert's gate, up and down projection.
    """

    model_type: str
    published: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    experts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")

    @property
    def content(self) -> dict[str, Any]:
        """The whole config.json."""
        return {**COMMON, **self.published, "model_type": self.model_type}


COMMON: Mapping[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
_MIXTURE: Mapping[str, Any] = {
    "num_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "num_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 1408, "first_k_dense_replace": 0, "norm_topk_prob": True, "n_group": 1,
    "topk_group": 1, "use_bias": False, "use_qkv_bias": False, "embedding_dropout": 0.0, "routed_scaling_factor": 1.0,
    "score_function": "sigmoid", "moe_router_enable_expert_bias": True,
}  # fmt: skip
_LATENT: Mapping[str, Any] = {
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
_ROUTED: Mapping[str, Any] = {"n_routed_experts": 64, "n_shared_experts": 1}

_CHATGLM: Mapping[str, Any] = {
    "num_layers": 28, "padded_vocab_size": 65024, "ffn_hidden_size": 13696, "kv_channels": 128, "seq_length": 8192,
    "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True, "original_rope": True,
}  # fmt: skip
_CHATGLM_NAMES = {r"embedding\.weight": "embedding.word_embeddings.weight"}
_DOTS_VIT: Mapping[str, Any] = {
    "embed_dim": 1536, "hidden_size": 1536, "intermediate_size": 4224, "num_hidden_layers": 42, "num_channels": 3,
    "num_attention_heads": 12, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 1,
}  # fmt: skip

_QWEN3_VL: Mapping[str, Any] = {
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    "text_config": {**COMMON, "rope_parameters": {**COMMON["rope_parameters"], "mrope_section": [24, 20, 20]}},
    "vision_config": {
        "hidden_size": 1152, "intermediate_size": 4304, "depth": 27, "num_heads": 16, "out_hidden_size": 4096,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [], "patch_size": 16, "spatial_merge_size": 2,
    },
}  # fmt: skip
_QWEN3_VL_NAMES = {
    r"^visual\.": "vlm.model.visual.",
    r"^language_model\.model\.": "vlm.model.language_model.",
    r"^language_model\.lm_head\.": "vlm.lm_head.",
}

REMOTE_CODE: Mapping[str, RemoteCode] = {
    "Alpamayo2Super": RemoteCode(
        "alpamayo2_super", {**_QWEN3_VL, "traj_ids": {"history_id0": 151669, "future_id0": 152669}}, _QWEN3_VL_NAMES
    ),
    "ChatGLMForConditionalGeneration": RemoteCode("chatglm", _CHATGLM, _CHATGLM_NAMES),
    "ChatGLMModel": RemoteCode("chatglm", _CHATGLM, _CHATGLM_NAMES),
    "DotsOCRForCausalLM": RemoteCode("dots_ocr", {"vision_config": _DOTS_VIT, "image_token_id": 151665}),
    "BailingMoeForCausalLM": RemoteCode("bailing_moe", _MIXTURE),
    "BailingMoeV2ForCausalLM": RemoteCode("bailing_moe_v2", _MIXTURE),
    "ExaoneForCausalLM": RemoteCode("exaone", {"activation_function": "silu", "layer_norm_epsilon": 1e-5}),
    "InternLM2ForCausalLM": RemoteCode("internlm2", {"bias": False}),
    "InternLM2ForRewardModel": RemoteCode("internlm2", {"bias": False}),
    "Param2MoEForCausalLM": RemoteCode(
        "param2moe",
        {**_MIXTURE, "rope_theta": 10000.0, "rope_scaling": None},
        {
            "self_attn": "attention",
            "embed_tokens": "word_embeddings",
            "o_proj": "dense",
            "e_score_correction_bias": "expert_bias",
        },
    ),
    "Plamo3ForCausalLM": RemoteCode(
        "plamo3",
        {
            "layer_types": ["full_attention"] * 32,
            "rope_local_theta": 10000.0,
            "interleaved_sliding_window": [None] * 32,
        },
    ),
    "PanguProMoEV2ForCausalLM": RemoteCode("pangu_pro_moe_v2", {**_MIXTURE, **_ROUTED}),
    "PanguUltraMoEForCausalLM": RemoteCode("pangu_ultra_moe", {**_MIXTURE, **_ROUTED, **_LATENT, "q_lora_rank": 1536}),
    "Qwen2ForProcessRewardModel": RemoteCode("qwen2"),
    "Qwen2ForRewardModel": RemoteCode("qwen2"),
    "SarvamMLAForCausalLM": RemoteCode("sarvam_mla", {**_MIXTURE, **_LATENT, "q_lora_rank": None}),
    "SarvamMoEForCausalLM": RemoteCode("sarvam_moe", _MIXTURE),
    "VoyageQwen3BidirectionalEmbedModel": RemoteCode("qwen3", {"embedding_size": 1024, "num_labels": 1024}),
}
