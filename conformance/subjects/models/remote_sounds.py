"""Architectures with towers for sounds whose code is published with their weights, by what their config.json holds.

Each number is what published files have, or of their order; `configs.small_config` makes them small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.subjects.models.remote_kind import COMMON, LLAMA, WHISPER, RemoteCode

_CONFORMER: Mapping[str, Any] = {
    "activation": "swish", "attention_dim": 1024, "attention_heads": 16, "batch_norm": False, "bias_in_glu": True,
    "causal": True, "chunk_size": -1, "cnn_layer_norm": True, "conv_activation": "swish", "conv_glu_type": "swish",
    "depthwise_multiplier": 1, "depthwise_seperable_out_channel": 1024, "dropout_rate": 0.0,
    "encoder_embedding_config": {"input_size": 80}, "ext_pw_kernel_size": 1, "ext_pw_out_channel": 1024,
    "input_layer": "nemo_conv", "input_size": 80, "kernel_size": 3, "left_chunk": 18, "linear_units": 1536,
    "nemo_conv_settings": {"conv_channels": 1024}, "num_blocks": 24, "time_reduction": 8,
    "relative_attention_bias_args": {"t5_bias_max_distance": 500, "type": "t5"},
}  # fmt: skip
_SMALL_CONFORMER = {
    "attention_dim": 64, "attention_heads": 4, "depthwise_seperable_out_channel": 64, "ext_pw_out_channel": 64,
    "linear_units": 96, "num_blocks": 1, "nemo_conv_settings.conv_channels": 64,
}  # fmt: skip
_SIGLIP_QKV = ("q_proj", "k_proj", "v_proj")
_PHI4MM: Mapping[str, Any] = {
    "embd_layer": {
        "embedding_cls": "image_audio",
        "audio_embd_layer": {"compression_rate": 8, "downsample_rate": 1, "embedding_cls": "audio",
                             "projection_cls": "mlp", "use_conv_downsample": False, "use_qformer": False},
        "image_embd_layer": {"crop_size": 448, "embedding_cls": "tune_image", "hd_transform_order": "sub_glb"},
    },
    "audio_processor": {"name": "cascades", "config": _CONFORMER}, "img_processor": None, "tie_word_embeddings": True,
}  # fmt: skip
_PHI4MM_NAMES = {
    r"^vision_encoder\.": "model.embed_tokens_extend.image_embed.",
    r"^embed_tokens_extend\.audio_projection_for_vision\.":
        "model.embed_tokens_extend.audio_embed.audio_projection.vision.",
    r"^embed_tokens_extend\.audio_projection\.": "model.embed_tokens_extend.audio_embed.audio_projection.speech.",
    r"^embed_tokens_extend\.": "model.embed_tokens_extend.audio_embed.",
}  # fmt: skip
_ULTRAVOX: Mapping[str, Any] = {
    "audio_config": WHISPER, "text_config": LLAMA, "hidden_size": 4096, "stack_factor": 8, "projector_act": "swiglu",
    "projector_ln_mid": True, "num_projector_layers": 0, "audio_token_index": 31999, "vocab_size": 32000,
}  # fmt: skip
_ULTRAVOX_NAMES = {
    r"^audio_tower.*k_proj\.bias$": "",  # of zeros, made by the loader
    r"audio_tower\.layers\.(\d+)\.mlp\.": r"audio_tower.layers.\1.",
}
_MOSS: Mapping[str, Any] = {
    **COMMON, "adapter_hidden_size": 8192, "language_config": {**COMMON, "model_type": "qwen3"},
    "audio_config": {
        "d_model": 1280, "output_dim": 1280, "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120, "downsample_rate": 8, "downsample_hidden_size": 480, "max_source_positions": 1500,
        "deepstack_encoder_layer_indexes": [8, 16, 24],
    },
}  # fmt: skip
_MOSS_NAMES = {r"^language_model\.lm_head\.": "lm_head.", r"^language_model\.model\.": "language_model."}
_SMALL_MOSS = {
    "adapter_hidden_size": 96, "audio_config.downsample_hidden_size": 32,
    "audio_config.deepstack_encoder_layer_indexes": [0],
}  # fmt: skip

WITH_SOUNDS: Mapping[str, RemoteCode] = {
    "MossAudioModel": RemoteCode("moss_audio", _MOSS, _MOSS_NAMES, decoder="language_model", small=_SMALL_MOSS),
    "Phi4MMForCausalLM": RemoteCode(
        "phi4mm",
        _PHI4MM,
        _PHI4MM_NAMES,
        packed={r"vision_encoder\..*\.qkv_proj": _SIGLIP_QKV},
        small={f"audio_processor.config.{name}": value for name, value in _SMALL_CONFORMER.items()},
    ),
    "UltravoxModel": RemoteCode(
        "ultravox",
        _ULTRAVOX,
        _ULTRAVOX_NAMES,
        decoder="language_model.model",
        kept=True,
        small={"text_config.architectures": ["LlamaForCausalLM"]},
    ),
}
