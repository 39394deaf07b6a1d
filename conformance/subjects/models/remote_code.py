"""Architectures whose code is published with their weights: what their config.json holds, and what tensors are called.

Each number is what published files have, or of their order; `configs.small_config` makes them small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.subjects.models.remote_kind import CHATGLM, COMMON, RemoteCode
from conformance.subjects.models.remote_sounds import WITH_SOUNDS
from conformance.subjects.models.remote_towers import WITH_TOWERS

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
_ALICE: Mapping[str, Any] = {
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "shared_expert_intermediate_size": 768,
    "norm_topk_prob": True, "layer_types": [*["linear_attention"] * 3, "full_attention"] * 8,
    "linear_num_key_heads": 16, "linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "block_attn_res_block_size": 4, "attention_bias": False,
    "kda_allow_negative_eigenvalues": False, "router_score_function": "sigmoid", "router_bias_correction": True,
}  # fmt: skip
_GROUPED = {"attention": {"no_op": False, "n_heads_in_group": 4}, "ffn": {"no_op": False, "ffn_mult": 2.625}}
_WITHOUT_ATTENTION = {"attention": {"no_op": True, "n_heads_in_group": None}, "ffn": {"no_op": False, "ffn_mult": 1.0}}
_WITHOUT_MLP = {**_GROUPED, "ffn": {"no_op": True, "ffn_mult": None}}
_K2_HORIZON: Mapping[str, Any] = {
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1024, "num_shared_experts": 1,
    "mlp_only_layers": [0], "decoder_sparse_step": 1, "norm_topk_prob": True, "moe_gate_bias": True,
    "router_score_func": "sigmoid", "router_scaling_factor": 2.5, "mova_num_experts": 8, "mova_num_experts_per_tok": 2,
    "rope_head_dim": 64, "query_key_norm": True, "attention_bias": False, "attention_gate_func": "silu",
    "layernorm_num_groups": 4,
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
_TELECHAT_NAMES = {
    r"^model\.norm\.": "transformer.ln_f.",
    r"^model\.layers\.": "transformer.h.",
    r"^model\.": "transformer.",
    "self_attn": "self_attention",
    "embed_tokens": "word_embeddings",
    "o_proj": "dense",
}

REMOTE_CODE: Mapping[str, RemoteCode] = {
    **WITH_TOWERS,
    **WITH_SOUNDS,
    "AliceAIForCausalLM": RemoteCode(
        "alice_ai", _ALICE, {r"linear_attn\.A_log": "linear_attn.a_log_bias"}, small={"linear_num_value_heads": 4}
    ),
    "Alpamayo2Super": RemoteCode(
        "alpamayo2_super", {**_QWEN3_VL, "traj_ids": {"history_id0": 151669, "future_id0": 152669}}, _QWEN3_VL_NAMES
    ),
    "BailingMoeForCausalLM": RemoteCode("bailing_moe", _MIXTURE),
    "BailingMoeV2ForCausalLM": RemoteCode("bailing_moe_v2", _MIXTURE),
    "ChatGLMForConditionalGeneration": RemoteCode("chatglm", CHATGLM, _CHATGLM_NAMES),
    "ChatGLMModel": RemoteCode("chatglm", CHATGLM, _CHATGLM_NAMES),
    "DeciLMForCausalLM": RemoteCode(
        "nemotron-nas", {"block_configs": [_GROUPED, _WITHOUT_ATTENTION, _WITHOUT_MLP, _GROUPED] * 8}
    ),
    "DotsOCRForCausalLM": RemoteCode("dots_ocr", {"vision_config": _DOTS_VIT, "image_token_id": 151665}),
    "ExaoneForCausalLM": RemoteCode("exaone", {"activation_function": "silu", "layer_norm_epsilon": 1e-5}),
    "InternLM2ForCausalLM": RemoteCode("internlm2", {"bias": False}),
    "InternLM2ForRewardModel": RemoteCode("internlm2", {"bias": False}),
    "K2HorizonForCausalLM": RemoteCode(
        "k2_horizon", _K2_HORIZON, small={"rope_head_dim": 8, "mova_num_experts": 4, "mova_num_experts_per_tok": 2}
    ),
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
    "TeleChat2ForCausalLM": RemoteCode(
        "telechat",
        {"n_layer": 30, "n_head": 32, "ffn_hidden_size": 12288, "layer_norm_epsilon": 1e-5},
        _TELECHAT_NAMES,
        packed={r".*\.self_attn\.qkv_proj": ("query", "key_value:")},
        without=("num_key_value_heads", "head_dim"),
    ),
    "VoyageQwen3BidirectionalEmbedModel": RemoteCode("qwen3", {"embedding_size": 1024, "num_labels": 1024}),
}
