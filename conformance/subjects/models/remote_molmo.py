"""Molmo and Molmo 2, whose code is published with their weights, by what their config.json holds.

Each number is what published files have, or of their order; `configs.small_config` makes them small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.subjects.models.remote_kind import COMMON, RemoteCode

_MOLMO: Mapping[str, Any] = {
    "embedding_size": 152064, "qkv_bias": True, "attention_layer_norm": False, "layer_norm_type": "rms",
    "layer_norm_eps": 1e-6, "norm_after": False, "weight_tying": False,
}  # fmt: skip
_MOLMO_NAMES = {
    r"^model\.wte\.(new_)?embedding\.weight": r"model.transformer.wte.\1embedding",
    r"^model\.layers\.": "model.transformer.blocks.",
    r"^model\.norm\.": "model.transformer.ln_f.",
    r"^lm_head\.": "model.transformer.ff_out.",
    r"self_attn\.qkv_proj": "att_proj",
    r"self_attn\.o_proj": "attn_out",
    r"(blocks.*)mlp\.gate_up_proj": r"\1ff_proj",
    r"(blocks.*)mlp\.down_proj": r"\1ff_out",
    r"input_layernorm": "attn_norm",
    r"post_attention_layernorm": "ff_norm",
    r"image_projector\.down_proj": "image_projector.w2",
    r"^vision_backbone\.": "model.vision_backbone.",
}
_MOLMO2: Mapping[str, Any] = {
    "image_patch_id": 151938,
    "text_config": {
        **COMMON, "model_type": "molmo2_llm", "rope_theta": 1e6, "additional_vocab_size": 128, "qkv_bias": False,
        "use_qk_norm": True, "qk_norm_type": "qwen3", "layer_norm_eps": 1e-6, "norm_after": False,
        "rope_scaling_layers": None,
    },
    "vit_config": {
        "model_type": "molmo2_vit", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6, "image_default_input_size": [378, 378], "image_patch_size": 14, "image_num_pos": 729,
    },
    "adapter_config": {
        "model_type": "molmo2_adapter_of_vit", "vit_layers": [-3, -9], "pooling_attention_mask": True,
        "hidden_size": 1152, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72,
        "hidden_act": "silu", "intermediate_size": 12288, "text_hidden_size": 4096,
    },
}  # fmt: skip
_MOLMO2_NAMES = {
    r"^model\.(new_)?embedding\.weight": r"model.transformer.wte.\1embedding",
    r"^model\.layers\.": "model.transformer.blocks.",
    r"^model\.norm\.": "model.transformer.ln_f.",
    r"qkv_proj": "att_proj",
    r"(blocks.*self_attn)\.o_proj": r"\1.attn_out",
    r"up_gate_proj": "ff_proj",
    r"(blocks.*mlp)\.down_proj": r"\1.ff_out",
    r"input_layernorm": "attn_norm",
    r"post_attention_layernorm": "ff_norm",
    r"image_pooling_2d\.([qkvo])_proj": r"image_pooling_2d.w\1",
    r"image_projector\.gate_proj": "image_projector.w1",
    r"image_projector\.up_proj": "image_projector.w3",
    r"image_projector\.down_proj": "image_projector.w2",
    r"^vision_backbone\.": "model.vision_backbone.",
}
_SMALL_MOLMO2 = {
    "vit_config.image_default_input_size": [28, 28], "vit_config.image_num_pos": 4, "adapter_config.vit_layers": [-1],
}  # fmt: skip

MOLMO: Mapping[str, RemoteCode] = {
    "MolmoForCausalLM": RemoteCode(
        "molmo",
        _MOLMO,
        _MOLMO_NAMES,
        packed={
            r"model\.embed_tokens": ("wte.embedding", "wte.new_embedding:128"),
            r".*\.merged_linear": ("w1", "w3"),
        },
        decoder="model.transformer",
        small={"embedding_size": 128},
    ),
    "Molmo2ForConditionalGeneration": RemoteCode(
        "molmo2",
        _MOLMO2,
        _MOLMO2_NAMES,
        packed={r"model\.embed_tokens": ("embedding", "new_embedding:128")},
        decoder="model.transformer",
        kept=True,
        small=_SMALL_MOLMO2,
    ),
}
