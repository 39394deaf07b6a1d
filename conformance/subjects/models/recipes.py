"""What making a small model of a type needs beyond `configs.small_config`: data, one entry for each type."""

from __future__ import annotations

# Architectures of vLLM that transformers has under another name.
BUILT_AS = {
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
}

# Architectures that stand beside no checkpoint of their own, and why.
NOT_BUILDABLE = {
    "NanbeigeForCausalLM": "transformers has no implementation of it, which vLLM would ask for",
}

# For a model type or an architecture: values by dotted name, put into the type's default configuration before it is
# made small, or into the small one.
RECIPES: dict[str, dict[str, dict[str, object]]] = {
    "cohere_compass": {
        "after": {"text_config.rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    },
    "emu3": {"before": {"vocabulary_map": {"<|extra_200|>": 100, "<image>": 101}, "image_token_id": 101}},
    "ernie4_5_vl_moe": {},
    "glm5_next": {"after": {"text_config.index_kpool": 4}},
    "granite4_vision": {"after": {"deepstack_layer_map": [[0, 0]], "downsample_rate": "1/2"}},
    "granite_speech": {"after": {"encoder_config.hidden_dim": 64, "encoder_config.dim_head": 16}},
    "granite_speech_plus": {"after": {"encoder_config.hidden_dim": 64, "encoder_config.dim_head": 16}},
    "granitemoehybrid": {"before": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}},
    "lfm2_moe": {"before": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4}},
    "molmo2": {"before": {"adapter_config.vision_feature_layer": [-1, -1]}},
    "muse_spark": {"after": {"audio_config.num_hidden_layers": 4}},
    "nemotron_h_omni": {"after": {"vision_config.max_img_size": 64}},
    "qwen2_5_omni": {"before": {"enable_audio_output": False}},
    "qwen3_omni_moe": {"before": {"enable_audio_output": False}},
    "qwen3_asr": {"after": {"audio_config.downsample_hidden_size": 32}},
    "qwen4_exp_text": {
        "before": {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
                   "indexer_compress_ratio": 4},
    },
}
