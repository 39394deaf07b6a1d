"""What making a small model of a type needs beyond `configs.small_config`: data, one entry for each type."""

from __future__ import annotations

# Architectures of vLLM that transformers has under another name.
BUILT_AS = {
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
}

_DRAFT = "a draft model, which vLLM loads beside the model that it drafts for"
# Architectures that stand beside no checkpoint of their own, and why.
NOT_BUILDABLE = {
    "DFlashDraftModel": _DRAFT,
    "DFlashMuseGlimmerAssistantModel": _DRAFT,
    "MuseGlimmerAssistantModel": _DRAFT,
    "NanbeigeForCausalLM": "transformers has no implementation of it, which vLLM would ask for",
}

_SLOW_AUDIO = {"encoder_config.hidden_dim": 64, "encoder_config.dim_head": 16}
_INDEXER = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [22, 22, 20]}

# For a model type: values by dotted name. "before" is put into the type's default configuration,
# as published files have it, and is made small with it; "after" is put into the small one as it is.
RECIPES: dict[str, dict[str, dict[str, object]]] = {
    "afmoe": {"before": {"score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1}},
    "axk1": {"before": {"first_k_dense_replace": 0, "mlp_layer_types": ["sparse"], "num_hidden_layers": 1}},
    "cohere_compass": {
        "before": {"vision_config.deepstack_visual_indexes": [0],
                   "text_config.rope_parameters": {"full_attention": _ROPE}},
    },
    "emu3": {
        "before": {"vocabulary_map": {"<|extra_200|>": 100, "<image>": 101}, "image_token_id": 101},
        "after": {"vq_config.base_channels": 32, "vq_config.codebook_size": 16},
    },
    "ernie4_5_vl_moe": {"before": {"text_config.rope_parameters": _ROPE}},
    "glm4_moe": {"before": {"head_dim": 128}},
    "glm4_moe_lite": {"before": {"first_k_dense_replace": 1}},
    "glm4v_moe": {"before": {"text_config.head_dim": 128}},
    "glm5_next": {"after": {"text_config.index_kpool": 4}},
    "granite4_vision": {"after": {"deepstack_layer_map": [[0, 0]], "downsample_rate": "1/2"}},
    "granite_speech": {"after": _SLOW_AUDIO},
    "granite_speech_plus": {"after": _SLOW_AUDIO},
    "granitemoehybrid": {"before": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}},
    "hy_v3": {"before": {"first_k_dense_replace": 1}},
    "lfm2": {"before": {"block_dim": 2560, "block_ff_dim": 12288, "conv_dim": 2560, "conv_dim_out": 2560}},
    "lfm2_moe": {"before": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4}},
    "lfm2_vl": {"before": {"text_config.block_dim": 2560, "text_config.block_ff_dim": 12288,
                           "text_config.conv_dim": 2560, "text_config.conv_dim_out": 2560}},
    "longcat_flash": {"before": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "zero_expert_type": "identity"}},
    "minimax_m2": {"before": {"rotary_dim": 64}},
    "molmo2": {"before": {"adapter_config.vision_feature_layer": [-1, -1]}},
    "muse_spark": {
        "before": {"audio_config.hidden_sizes": [16, 32], "audio_config.depths": [1, 1],
                   "audio_config.patch_sizes": [16, 6]},
        "after": {"audio_config.num_hidden_layers": 2, "audio_config.hidden_sizes": [16, 32]},
    },
    "nemotron_h_omni": {"before": {"patch_size": 16}, "after": {"vision_config.max_img_size": 64}},
    "qianfan_ocr": {"before": {"force_image_size": 28}},
    "qwen2_5_omni": {"before": {"enable_audio_output": False}},
    "qwen3_asr": {"after": {"audio_config.downsample_hidden_size": 32}},
    "qwen3_omni_moe": {
        "before": {"enable_audio_output": False},
        "after": {"thinker_config.audio_config.downsample_hidden_size": 32},
    },
    "qwen3_vl_moe": {"before": {"text_config.norm_topk_prob": True}},
    "qwen4_exp": {"before": {f"text_config.{name}": value for name, value in _INDEXER.items()}},
    "qwen4_exp_text": {"before": _INDEXER},
    "vibevoice_asr": {
        "before": {f"{which}_tokenizer_encoder_config.{name}": value
                   for which in ("acoustic", "semantic")
                   for name, value in (("depths", [1, 1]), ("downsampling_ratios", [2]), ("num_filters", 8))},
    },
    "voxtral": {"before": {"audio_config.downsample_factor": 4}},
    "xlm-roberta": {"before": {"position_embedding_type": "absolute"}},
}  # fmt: skip
