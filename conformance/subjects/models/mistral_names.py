"""Files in Mistral's own format: what they call the tensors of transformers' classes, and their params.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LANGUAGE = {
    r"^(model\.)?language_model\.(model\.)*": "",
    r"^lm_head\.": "output.",
    r"^embed_tokens\.": "tok_embeddings.",
    r"(?<=attention\.)([qkvo])_proj\.": r"w\1.",
    r"self_attn\.([qkvo])_proj\.": r"attention.w\1.",
    r"self_attn\.out_proj\.": "attention.wo.",
    r"(self_attn_layer_norm|input_layernorm)\.": "attention_norm.",
    r"(final_layer_norm|post_attention_layernorm)\.": "ffn_norm.",
    r"(mlp|feed_forward)\.gate_proj\.": "feed_forward.w1.",
    r"(mlp|feed_forward)\.down_proj\.": "feed_forward.w2.",
    r"(mlp|feed_forward)\.up_proj\.": "feed_forward.w3.",
}
OF_STREAMS: Mapping[str, str] = {
    r"^(model\.)?audio_tower\.embedder\.": "audio_tower.",
    r"^(model\.)?audio_tower\.norm\.": "audio_tower.layer_norm.",
    r"ada_rms_norm\.linear1\.": "ada_rms_norm_t_cond.0.",
    r"ada_rms_norm\.linear2\.": "ada_rms_norm_t_cond.2.",
}  # and then as the others
WITH_SOUNDS: Mapping[str, str] = {
    r"^(model\.)?multi_modal_projector\.linear_1": "mm_whisper_embeddings.audio_language_projection.0",
    r"^(model\.)?multi_modal_projector\.linear_2": "mm_whisper_embeddings.audio_language_projection.2",
    r"^(model\.)?audio_tower\.conv1\.": "mm_whisper_embeddings.whisper_encoder.conv_layers.0.",
    r"^(model\.)?audio_tower\.conv2\.": "mm_whisper_embeddings.whisper_encoder.conv_layers.1.",
    r"^(model\.)?audio_tower\.layer": "mm_whisper_embeddings.whisper_encoder.transformer.layer",
    r"^(model\.)?audio_tower\.": "mm_whisper_embeddings.whisper_encoder.",
    r"transformer\.layer_norm\.": "transformer.norm.",
    **_LANGUAGE,
    r"^tok_embeddings\.": "mm_whisper_embeddings.tok_embeddings.",
    r"(?<=\d\.)fc(?=\d\.)": "feed_forward.w",
}
WITH_IMAGES: Mapping[str, str] = {
    r"^(model\.)?vision_tower\.": "vision_encoder.",
    r"^(model\.)?multi_modal_projector\.patch_merger\.": "patch_merger.",
    r"^(model\.)?multi_modal_projector\.norm\.": "pre_mm_projector_norm.",
    r"^(model\.)?multi_modal_projector\.linear_1\.": "vision_language_adapter.w_in.",
    r"^(model\.)?multi_modal_projector\.linear_2\.": "vision_language_adapter.w_out.",
    **_LANGUAGE,
}

# Of those whose halves of a head, which rotary embeddings turn into each other, are side by side: its size.
SIDE_BY_SIDE: Mapping[str, str] = {
    r"^layers\.\d+\.attention\.w[qk]\.weight$": "text_config.head_dim",
    r"^vision_encoder\.transformer\.layers\.\d+\.attention\.w[qk]\.weight$": "vision_config.head_dim",
}

_SIZES = {
    "dim": "hidden_size", "hidden_dim": "intermediate_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps",
    **{name: name for name in ("head_dim", "vocab_size", "max_position_embeddings")},
}  # fmt: skip
_OF_A_TOWER = (
    "hidden_size", "num_channels", "image_size", "patch_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads",
)  # fmt: skip


def write_params(directory: Path, content: Mapping[str, Any]) -> None:
    """Makes a saved Mistral 3 of the config.json ``content`` one in Mistral's format, by the names of its files."""
    text, vision = content["text_config"], content["vision_config"]
    params = {name: text[of_transformers] for name, of_transformers in _SIZES.items()}
    params |= {"rope_theta": text["rope_parameters"]["rope_theta"], "tied_embeddings": content["tie_word_embeddings"]}
    params["vision_encoder"] = {
        **{name: vision[name] for name in _OF_A_TOWER},
        "rope_theta": vision["rope_parameters"]["rope_theta"],
        "image_token_id": content["image_token_index"],
        "adapter_bias": content["multimodal_projector_bias"],
        "spatial_merge_size": content["spatial_merge_size"],
        "add_pre_mm_projector_layer_norm": True,
        "mm_projector_id": "patch_merge",
    }
    (directory / "params.json").write_text(json.dumps(params, indent=2, sort_keys=True), encoding="utf-8")
    (directory / "model.safetensors").rename(directory / "consolidated.safetensors")
