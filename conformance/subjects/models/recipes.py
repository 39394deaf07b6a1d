"""What making a small model of a type needs beyond `configs.small_config`: data, one entry for each type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from conformance.subjects.models.mistral_names import OF_STREAMS, SIDE_BY_SIDE, WITH_IMAGES, WITH_SOUNDS

# Architectures of vLLM that transformers has under another name.
BUILT_AS = {
    "BertSpladeSparseEmbeddingModel": "BertForMaskedLM",
    "ColQwen3_5": "Qwen3_5Model",
    "Cosmos3ForConditionalGeneration": "Cosmos3OmniForConditionalGeneration",
    "D3ForSequenceClassification": "Qwen3_5Model",
    "InternS1ProForConditionalGeneration": "Qwen3VLMoeForConditionalGeneration",
    "JinaEmbeddingsV5Model": "Qwen3Model",
    "LightOnOCRForConditionalGeneration": "LightOnOcrForConditionalGeneration",
    "LlamaBidirectionalForSequenceClassification": "LlamaForSequenceClassification",
    "LlamaBidirectionalModel": "LlamaModel",
    "MiniCPMForCausalLM": "LlamaForCausalLM",
    "OpsColQwen3Model": "Qwen3VLModel",
    "PanguEmbeddedForCausalLM": "LlamaForCausalLM",
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
    "PixtralForConditionalGeneration": "Mistral3ForConditionalGeneration",
    "VoxtralRealtimeGeneration": "VoxtralRealtimeForConditionalGeneration",
    "Rnj1ForCausalLM": "Gemma3ForCausalLM",
    "SolarForCausalLM": "LlamaForCausalLM",
}

_SLOW_AUDIO = {"encoder_config.hidden_dim": 64, "encoder_config.dim_head": 16}
_INDEXER = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
    "indexer_compress_ratio": 4, "output_gate_type": "sigmoid",
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [22, 22, 20]}
_ERNIE = {  # what vLLM reads beside the configuration of the language model, as published files have no such
    "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28, "num_attention_heads": 20,
    "num_key_value_heads": 4, "vocab_size": 103424, "max_position_embeddings": 131072, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "use_bias": False, "moe_num_experts": [64, 64], "moe_intermediate_size": [1536, 512],
    "moe_num_shared_experts": 2, "moe_k": 6, "moe_layer_interval": 1, "moe_layer_start_index": [1, 1],
    "mlp_layer_types": ["dense"] + ["sparse"] * 27, "pixel_hidden_size": 1280, "spatial_conv_size": 2,
    "moe_layer_end_index": [99, 99], "temporal_conv_size": 2, "use_temporal_conv": True, "im_patch_id": 100295,
    "rope_parameters": _ROPE,
}  # fmt: skip
_TIED = dict.fromkeys(("tie_word_embeddings", "text_config.tie_word_embeddings"), True)
_CODES = {"format_version": 1, "pooling": "last", "codes": ["A", "B"], "token_ids": [5, 6]}
_SCHEMA_HEAD = {
    "hidden_size": 2048, "width": 16, "routing_layers": 0, "layers": 0, "heads": 2, "feedforward": 32,
}  # fmt: skip
_FOURIER = {"rope_type": "default", "rope_theta": 10000.0, "fope_init_factor": 0.5, "fope_sep_head": True,
            "num_inv_freq": 4}  # fmt: skip
_CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4}
_LFM2 = {"block_dim": 2560, "block_ff_dim": 12288, "conv_dim": 2560, "conv_dim_out": 2560, **_CONVOLUTIONS}
_GATE = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
_GEMMA_EXPERTS = {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}
_QWEN2_ROPE = {"text_config.rope_parameters.mrope_section": [16, 24, 24]}
_QWEN3_ROPE = {"text_config.rope_parameters.mrope_section": [24, 20, 20],
               "text_config.rope_parameters.mrope_interleaved": True}  # fmt: skip
_GLM_ROPE = {"text_config.rope_parameters.mrope_section": [8, 12, 12],
             "text_config.rope_parameters.partial_rotary_factor": 0.5}  # fmt: skip


class Recipe(TypedDict, total=False):
    """What one model type needs, or one architecture in addition; each is by dotted name.

    ``types`` are model types of configurations that its default leaves out. ``before`` is put into the type's default
    configuration, as published files have it, and is made small with it; ``after`` into the small one, as it is.
    ``names`` are patterns of tensors' names that transformers saves otherwise than published files have them,
    ``transposed`` is the pattern of those that it saves transposed, ``interleaved`` are patterns of those, by their
    published names, whose halves of a head are side by side in published files, with the head's size by dotted name,
    ``folder`` where these have them, ``params`` whether they are Mistral's, with params.json. ``dtypes`` are the only
    ones vLLM's class takes.
    """

    types: Mapping[str, str]
    before: Mapping[str, object]
    after: Mapping[str, object]
    names: Mapping[str, str]
    transposed: str
    interleaved: Mapping[str, str]
    folder: str
    params: bool
    dtypes: tuple[str, ...]


_MAPPINGS = ("types", "before", "after", "names")

_OMNI = (
    *("NemotronH_Nano_VL_V2", "NemotronH_Nano_Omni_Reasoning_V3"),
    *("NemotronH_Super_Omni_Reasoning_V3", "NemotronH_Omni_Reasoning_V3"),
)
RECIPES: Mapping[str, Recipe] = {
    **{name: Recipe(before=_GATE) for name in ("deepseek_v3", "deepseek_v32", "glm_moe_dsa")},
    **{name: Recipe(dtypes=("float32",)) for name in _OMNI},  # its towers have the language model's own
    "BertSpladeSparseEmbeddingModel": {"before": {"tie_word_embeddings": False}},
    "ClefFlashForJointSchema": {"before": {"joint_head_config": _SCHEMA_HEAD}},
    "ClefOmniForJointSchema": {"before": {"joint_head_config": _SCHEMA_HEAD}},
    "ColQwen3": {"names": {"^": "vlm."}},
    "ColQwen3_5": {"before": {"retrieval_attention_contract": "bidirectional", "colbert_dim": 16, **_TIED}},
    "D3ForSequenceClassification": {"before": {"decision_config": _CODES, **_TIED}},
    "HF_ColBERT": {"names": {r"^(embeddings|encoder|pooler)\.": r"bert.\1."}},
    "InternS1ProForConditionalGeneration": {
        "before": dict.fromkeys(_TIED, False),
        "after": {"text_config.rope_parameters": _FOURIER},
        "transposed": "",
    },
    "LlamaBidirectionalForSequenceClassification": {"before": {"pooling": "avg"}},
    "LlamaBidirectionalModel": {"before": {"pooling": "avg"}},
    "MiniCPMForCausalLM": {
        "before": {"dim_model_base": 256, "scale_depth": 1.4, "scale_emb": 12, "num_experts": 0},
    },
    "OpsColQwen3Model": {"before": {"dims": 16, **_TIED}},
    "PixtralForConditionalGeneration": {"names": WITH_IMAGES, "interleaved": SIDE_BY_SIDE, "params": True},
    "SolarForCausalLM": {
        "before": {"bskcn_1": [12, 20], "bskcn_2": [20, 32], "bskcn_3": [16, 24], "bskcn_4": [28, 40],
                   "bskcn_tv": [0.9, 0.8]},
    },
    "TeleFLMForCausalLM": {"before": {"use_mup": False}},
    "afmoe": {"before": {"score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1}},
    "audioflamingo3": {"names": {r"^language_model\.model\.model\.": "language_model.model."}},
    "axk1": {"before": {"first_k_dense_replace": 0, "mlp_layer_types": ["sparse"], "num_hidden_layers": 1}},
    "cohere_compass": {
        "before": {"vision_config.deepstack_visual_indexes": [0], "text_config.tie_word_embeddings": True,
                   "tie_word_embeddings": True, "text_config.rope_parameters": {"full_attention": _ROPE}},
    },
    "cosmos3_omni": {"folder": "transformer"},
    "emu3": {
        "before": {"vocabulary_map": {"<|extra_200|>": 100, "<image>": 101}, "image_token_id": 101},
        "after": {"vq_config.base_channels": 32, "vq_config.codebook_size": 16},
    },
    "ernie4_5_vl_moe": {
        "before": {"text_config.rope_parameters": _ROPE, "vision_config.embed_dim": 1280, **_ERNIE},
        "after": {"vision_config.mlp_ratio": 1.5, "freq_allocation": 2},
        "names": {r"^model\.vision_(model|tower)\.": "vision_model."},
    },
    "gemma4": {
        "types": {"vision_config": "gemma4_vision"},
        "before": {f"text_config.{name}": value for name, value in _GEMMA_EXPERTS.items()}
        | {"vision_config.default_output_length": 280},
    },
    "gemma4_text": {"before": _GEMMA_EXPERTS},
    "gemma4_unified": {"types": {"vision_config": "gemma4_unified_vision"},
                       "before": {"vision_config.num_soft_tokens": 280}},
    "glm4_moe": {"before": {"head_dim": 128}},
    "glm4_moe_lite": {"before": {"first_k_dense_replace": 1}},
    "glm4v": {"before": {"text_config.attention_bias": True} | _GLM_ROPE},
    "glm4v_moe": {"before": {"text_config.head_dim": 128, "text_config.use_qk_norm": False} | _GLM_ROPE},
    "glm5_next": {
        "before": {"text_config.mhc": True, "text_config.mla_use_nope": True,
                   "text_config.indexer_rope_interleave": True}
        | {f"text_config.{name}": value for name, value in _GATE.items()},
        "after": {"text_config.index_kpool": 4},
    },
    "glm_ocr": {"before": _GLM_ROPE},
    "glmasr": {"names": {r"^language_model\.model\.model\.": "language_model.model."}},
    "granite4_vision": {"types": {"vision_config": "siglip_vision_model"},
                        "after": {"deepstack_layer_map": [[0, 0]], "downsample_rate": "1/2",
                                  "qformer_config.intermediate_size": 3072}},
    "granite_speech": {"after": _SLOW_AUDIO},
    "granite_speech_plus": {"after": _SLOW_AUDIO},
    "granitemoehybrid": {"before": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}},
    "hunyuan_vl": {"after": {"vision_config.max_image_size": 112, "vision_config.min_image_size": 28}},
    "hy_v3": {"before": {"first_k_dense_replace": 1, "expert_hidden_dim": 1536, "route_norm": True,
                         "qk_norm": True}},
    "hy_v4": {"names": {r"\.hc_pre\.(hc_attn_layer|hc_mlp_layer)\.": r".\1.hc_pre.",
                        r"\.hc_pre\.hc_head\.": ".hc_head."}},
    "jamba": {"after": {"num_hidden_layers": 3, "attn_layer_period": 3, "attn_layer_offset": 1,
                        "expert_layer_period": 3, "expert_layer_offset": 2}},
    "lfm2": {"before": _LFM2},
    "lfm2_moe": {"before": _CONVOLUTIONS},
    "lfm2_vl": {"before": {f"text_config.{name}": value for name, value in _LFM2.items()}
                | {"vision_config.vision_use_head": False}},
    "lighton_ocr": {"before": {"vision_feature_layer": -1, "projector_hidden_act": "gelu",
                               "multimodal_projector_bias": False, "spatial_merge_size": 2}},
    "longcat_flash": {"before": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "zero_expert_type": "identity"},
                      "after": {"zero_expert_num": 0}},
    "minimax_m2": {"before": {"rotary_dim": 64, "scoring_func": "sigmoid",
                              "use_routing_bias": True}},
    "molmo2": {"before": {"adapter_config.vision_feature_layer": [-1, -1]}},
    "muse_glimmer": {"after": {"out_hidden_size": 256}},
    "muse_spark": {
        "before": {"text_config.num_shared_experts": 0, "audio_config.hidden_sizes": [16, 32],
                   "audio_config.depths": [1, 1], "audio_config.patch_sizes": [16, 6]},
        "after": {"audio_config.num_hidden_layers": 2, "audio_config.hidden_sizes": [16, 32], "out_hidden_size": 256},
    },
    "nemotron_h_omni": {"before": {"patch_size": 16}, "after": {"vision_config.max_img_size": 64}},
    "olmo_hybrid": {
        "after": {"linear_num_value_heads": 4},
        "names": {"attention_layer_norm": "input_layernorm", "feedforward_layer_norm": "post_attention_layernorm"},
    },
    "qianfan_ocr": {"before": {"force_image_size": 28, "ps_version": "v2", "select_layer": -1,
                                "dynamic_image_size": True, "use_thumbnail": True,
                                "max_dynamic_patch": 12, "min_dynamic_patch": 1},
                    "names": {r"^language_model\.model\.encoder\.": "language_model.model."}},
    "qwen2_5_vl": {"before": _QWEN2_ROPE},
    "qwen2_vl": {"before": _QWEN2_ROPE},
    "qwen2_5_omni": {"before": {"enable_audio_output": False}},
    "qwen3_asr": {"after": {"audio_config.downsample_hidden_size": 32}},
    "qwen3_omni_moe": {
        "before": {"enable_audio_output": False,
                   "thinker_config.vision_config.apply_vit_abs_pos_embed": True,
                   "thinker_config.text_config.tie_word_embeddings": False},
        "after": {"thinker_config.audio_config.downsample_hidden_size": 32,
                  "thinker_config.vision_config.image_size": 56},
    },
    "qwen3_vl": {"before": _QWEN3_ROPE},
    "qwen3_vl_moe": {
        "before": {"text_config.norm_topk_prob": True} | _QWEN3_ROPE,
        "transposed": r"mlp\.experts\.(gate_up|down)_proj$",
    },
    "qwen4_exp": {
        "before": {f"text_config.{name}": value for name, value in _INDEXER.items()}
        | {"vision_config.deepstack_visual_indexes": []},
        "dtypes": ("bfloat16",),
    },
    "qwen4_exp_text": {"before": _INDEXER, "dtypes": ("bfloat16",)},
    "voxtral_realtime": {
        "before": {"text_config.ada_rms_norm_t_cond": True, "text_config.ada_rms_norm_t_cond_dim": 32},
        "after": {"audio_config.window_size": 400, "audio_config.hop_length": 160, "audio_config.pos_embed": "rope",
                  "audio_config.sampling_rate": 16000, "audio_config.global_log_mel_max": 1.5,
                  "audio_config.is_causal": True, "audio_config.block_pool_size": 4, "audio_config.sliding_window": 32,
                  "audio_config.downsample_factor": 4, "audio_config.scale_embedding": False,
                  "audio_config.max_source_positions": 64, "audio_config.encoder_head_dim": 16,
                  "audio_config.intermediate_size": 96, "text_config.architectures": ["MistralForCausalLM"]},
        "names": {**OF_STREAMS, **WITH_SOUNDS},
        "interleaved": SIDE_BY_SIDE,
    },
    "vibevoice_asr": {
        "before": {f"{which}_tokenizer_encoder_config.{name}": value
                   for which in ("acoustic", "semantic")
                   for name, value in (("depths", [1, 1]), ("downsampling_ratios", [2]), ("num_filters", 8))},
        "names": {r"^language_model\.model\.model\.": "language_model.model."},
    },
    "voxtral": {"before": {"audio_config.downsample_factor": 4,
                          "audio_config.hop_length": 160, "audio_config.sampling_rate": 16000,
                          "audio_config.global_log_mel_max": 1.5},
                "after": {"audio_config.window_size": 400, "audio_config.intermediate_size": 256,
                          "text_config.architectures": ["MistralForCausalLM"]},
                "names": WITH_SOUNDS, "interleaved": SIDE_BY_SIDE},
    "xlm-roberta": {"before": {"position_embedding_type": "absolute"}},
}  # fmt: skip


def recipe_of(model_type: str, architecture: str) -> Recipe:
    """What a small model needs: what its type does, with what its architecture does put over that."""
    of_type, own = RECIPES.get(model_type, {}), RECIPES.get(architecture, {})
    inside = {name: {**of_type[name], **own[name]} for name in _MAPPINGS if name in of_type and name in own}  # type: ignore[literal-required]
    return {**of_type, **own, **inside}  # type: ignore[typeddict-item]
