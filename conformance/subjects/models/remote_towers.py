"""Architectures with towers for images whose code is published with their weights, by what their config.json holds.

Each number is what published files have, or of their order; `configs.small_config` makes them small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.subjects.models.remote_kind import CHATGLM, COMMON, LLAMA, WHISPER, RemoteCode
from conformance.subjects.models.remote_molmo import MOLMO

# Language models.
_QWEN2: Mapping[str, Any] = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "num_attention_heads": 28, "num_key_value_heads": 4, "num_hidden_layers": 28, "vocab_size": 151674,
    "tie_word_embeddings": False,
}  # fmt: skip
_DEEPSEEK: Mapping[str, Any] = {
    **COMMON, "model_type": "deepseek_v2", "first_k_dense_replace": 1, "moe_intermediate_size": 896,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "use_mla": False, "q_lora_rank": None,
    "kv_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0, "topk_method": "greedy",
    "n_group": 1, "topk_group": 1, "moe_layer_freq": 1, "norm_topk_prob": False, "scoring_func": "softmax",
    "routed_scaling_factor": 1.0,
}  # fmt: skip

# Towers.
_INTERN_VIT: Mapping[str, Any] = {
    "model_type": "intern_vit_6b", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 24, "image_size": 448, "patch_size": 14, "qkv_bias": True, "qk_normalization": False,
    "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "hidden_act": "gelu", "initializer_factor": 1.0,
}  # fmt: skip
_NVLM_VIT = {**_INTERN_VIT, "qkv_bias": False, "qk_normalization": True, "norm_type": "rms_norm"}
_SIGLIP: Mapping[str, Any] = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
    "num_hidden_layers": 27, "image_size": 448, "patch_size": 14, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
_EVA_CLIP: Mapping[str, Any] = {
    "dropout_prob": 0.0, "hidden_act": "gelu", "in_channels": 3, "num_hidden_layers": 63, "hidden_size": 1792,
    "patch_size": 14, "num_heads": 16, "intermediate_size": 15360, "layer_norm_eps": 1e-6, "num_positions": 6401,
    "image_size": 1120, "scaling_factor": 8,
}  # fmt: skip

# Whole models.
_INTERN_VL: Mapping[str, Any] = {
    "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 448, "max_dynamic_patch": 12,
    "min_dynamic_patch": 1, "ps_version": "v2", "select_layer": -1, "template": "internvl2_5", "use_thumbnail": True,
    "llm_config": _QWEN2, "vision_config": _INTERN_VIT,
}  # fmt: skip
_SMALL_INTERN_VL = {"force_image_size": 28, "llm_config.architectures": ["Qwen2ForCausalLM"]}
_EAGLE: Mapping[str, Any] = {
    "downsample_ratio": 0.5, "force_image_size": 448, "select_layer": -1, "text_config": _QWEN2,
    "vision_config": _SIGLIP,
}  # fmt: skip
_KEYE: Mapping[str, Any] = {
    "vision_config": {**_SIGLIP, "model_type": "Keye", "num_channels": 3, "spatial_merge_size": 2,
                      "temporal_patch_size": 1, "tokens_per_second": 2},
    "attention_bias": False,
}  # fmt: skip
_MINICPMV: Mapping[str, Any] = {
    "version": "2.6", "query_num": 64, "drop_vision_last_layer": False, "image_size": 448, "patch_size": 14,
    "slice_mode": True, "batch_vision_input": True, "vision_config": _SIGLIP,
}  # fmt: skip
_MINICPMO: Mapping[str, Any] = {**_MINICPMV, "audio_config": WHISPER, "audio_pool_step": 2, "audio_chunk_length": 1.0}
_DEEPSEEK_OCR: Mapping[str, Any] = {
    "language_config": _DEEPSEEK, "tile_tag": "2D", "global_view_pos": "head",
    "projector_config": {"model_type": "mlp_projector", "projector_type": "linear", "input_dim": 2048,
                         "n_embed": 1280},
    "vision_config": {"model_type": "vision", "model_name": "deeplip_b_l", "image_size": 1024},
}  # fmt: skip
_SMALL_OCR = {
    "language_config.architectures": ["DeepseekV2ForCausalLM"], "projector_config.input_dim": 128,
    "projector_config.n_embed": 64,
}  # fmt: skip
_CLIP_QKV = {r"vision_model\..*\.qkv_proj": ("qkv_proj",)}
_OCR_NAMES = {r"^language_model\.": "", r"^(?!model\.|lm_head\.)": "model."}
_ISAAC: Mapping[str, Any] = {
    "vision_config": {**_SIGLIP, "model_type": "pixel_shuffle_siglip2", "patch_size": 16, "num_patches": 256,
                      "num_channels": 3, "pixel_shuffle_scale_factor": 2},
    "vision_token": "<image>", "max_sequence_length": 16384,
}  # fmt: skip
_ISAAC_NAMES = {
    r"^language_model\.": "",
    r"^vision_embedding\.transformer\.": "model.vision_embedding.0.",
    r"^vision_embedding\.linear_fc1\.": "model.vision_embedding.1.",
    r"^vision_embedding\.linear_fc2\.": "model.vision_embedding.3.",
}
_BAGEL: Mapping[str, Any] = {
    "llm_config": {**_QWEN2, "qk_norm": True}, "vit_config": _SIGLIP, "visual_gen": True, "visual_und": True,
    "vit_max_num_patch_per_side": 70, "connector_act": "gelu_pytorch_tanh",
}  # fmt: skip
_NEMOTRON_VL: Mapping[str, Any] = {
    "downsample_ratio": 0.5, "force_image_size": 512, "ps_version": "v2", "select_layer": -1,
    "template": "bidirectional",
    "llm_config": {**LLAMA, "pooling": "avg"}, "vision_config": _SIGLIP, "img_context_token_id": 31998,
}  # fmt: skip
_NEMOTRON_VL_NAMES = {
    r"^language_model\.model\.": "language_model.",
    r"^vision_model\.vision_model\.": "vision_model.",
}
_SMALL_NEMOTRON_VL = {"force_image_size": 28, "llm_config.architectures": ["LlamaBidirectionalModel"]}
_NEMOTRON_H: Mapping[str, Any] = {
    "patch_size": 16, "force_image_size": 512, "downsample_ratio": 0.5, "ps_version": "v2", "template": "nemotron",
    "image_tag_type": "internvl", "vit_hidden_size": 1280, "projector_hidden_size": 20480,
    "norm_mean": [0.5, 0.5, 0.5], "norm_std": [0.5, 0.5, 0.5], "img_context_token_id": 131072,
    "vision_config": {"model_type": "radio_of_timm", "patch_size": 16,
                      "args": {"model": "vit_huge_patch16_224", "cpe_max_size": 64}},
    "llm_config": {"model_type": "nemotron_h", "layers_block_type": ["linear_attention", "mlp", "full_attention"]},
}  # fmt: skip
_NEMOTRON_H_NAMES = {
    r"^vision_model.*\.ls[12]$": "",
    r"^vision_model\.model\.encoder\.layers\.": "vision_model.radio_model.model.blocks.",
    r"^vision_model\.model\.": "vision_model.radio_model.model.",
    r"^language_model\.model\.": "language_model.backbone.",
    r"(^language_model.*)embed_tokens": r"\1embeddings",
    r"mixer\.A$": "mixer.A_log",
}
_SMALL_NEMOTRON_H = {
    "patch_size": 16, "vision_config.patch_size": 16, "force_image_size": 32,
    "llm_config.architectures": ["NemotronHForCausalLM"], "llm_config.dtype": "float32",
}  # fmt: skip

WITH_TOWERS: Mapping[str, RemoteCode] = {
    **MOLMO,
    "BagelForConditionalGeneration": RemoteCode("bagel", _BAGEL, decoder="language_model.model", kept=True),
    "DeepseekOCRForCausalLM": RemoteCode(
        "deepseek_vl_v2", _DEEPSEEK_OCR, _OCR_NAMES, packed=_CLIP_QKV, kept=True, small=_SMALL_OCR
    ),
    "DeepseekOCR2ForCausalLM": RemoteCode("deepseek_vl_v2", _DEEPSEEK_OCR, _OCR_NAMES, kept=True, small=_SMALL_OCR),
    "Eagle2_5_VLForConditionalGeneration": RemoteCode(
        "eagle_2_5_vl",
        _EAGLE,
        decoder="language_model.model",
        small={"force_image_size": 28, "text_config.architectures": ["Qwen2ForCausalLM"]},
    ),
    "GLM4VForCausalLM": RemoteCode(
        "chatglm",
        {**CHATGLM, "vision_config": _EVA_CLIP, "boi_token_id": 31997, "eoi_token_id": 31998},
        {r"transformer\.embedding\.weight": "transformer.embedding.word_embeddings.weight"},
        decoder="transformer.encoder",
        small={"vision_config.num_positions": 5},
    ),
    "H2OVLChatModel": RemoteCode("h2ovl_chat", _INTERN_VL, decoder="language_model.model", small=_SMALL_INTERN_VL),
    "InternVLChatModel": RemoteCode(
        "internvl_chat", _INTERN_VL, decoder="language_model.model", small=_SMALL_INTERN_VL
    ),
    "IsaacForConditionalGeneration": RemoteCode("isaac", _ISAAC, _ISAAC_NAMES, kept=True),
    "KeyeForConditionalGeneration": RemoteCode("Keye", _KEYE, {r"^language_model\.": ""}, decoder="model"),
    "KeyeVL1_5ForConditionalGeneration": RemoteCode("KeyeVL1_5", _KEYE, {r"^language_model\.": ""}, decoder="model"),
    "LlamaNemotronVLForSequenceClassification": RemoteCode(
        "llama_nemotron_vl",
        _NEMOTRON_VL,
        {**_NEMOTRON_VL_NAMES, r"^(?!score)": "model."},
        decoder="model.language_model",
        small=_SMALL_NEMOTRON_VL,
    ),
    "LlamaNemotronVLModel": RemoteCode(
        "llama_nemotron_vl", _NEMOTRON_VL, _NEMOTRON_VL_NAMES, decoder="language_model", small=_SMALL_NEMOTRON_VL
    ),
    "MiniCPMO": RemoteCode("minicpmo", _MINICPMO, decoder="llm.model", small={"hidden_size": 128}),
    "MiniCPMV": RemoteCode("minicpmv", _MINICPMV, decoder="llm.model", small={"hidden_size": 128}),
    **{
        name: RemoteCode(
            name, _NEMOTRON_H, _NEMOTRON_H_NAMES, decoder="language_model.backbone", kept=True, small=_SMALL_NEMOTRON_H
        )
        for name in (
            *("NemotronH_Nano_VL_V2", "NemotronH_Nano_Omni_Reasoning_V3"),
            *("NemotronH_Super_Omni_Reasoning_V3", "NemotronH_Omni_Reasoning_V3"),
        )
    },
    "NVLM_D": RemoteCode(
        "NVLM_D",
        {**_INTERN_VL, "vision_config": _NVLM_VIT},
        decoder="language_model.model",
        small={**_SMALL_INTERN_VL, "vision_config.num_attention_heads": 1},  # and seven more, divisible by ranks
    ),
    "UnlimitedOCRForCausalLM": RemoteCode(
        "unlimited-ocr", _DEEPSEEK_OCR, _OCR_NAMES, packed=_CLIP_QKV, kept=True, small=_SMALL_OCR
    ),
}
