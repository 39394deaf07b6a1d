"""What each number of a configuration is, by its name: the same few names mean the same in nearly every model type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_OF_CHOICE = {
    "hidden": "hidden_size d_model block_dim conv_dim conv_dim_out n_embd "
    " word_embed_proj_dim embed_dim dim backbone_hidden_size",
    "heads": "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads "
    "attention_heads swa_num_attention_heads cross_num_attention_heads",
    "kv_heads": "num_key_value_heads swa_num_key_value_heads cross_num_key_value_heads num_global_key_value_heads",
    "head_dim": "head_dim swa_head_dim attention_head_dim global_head_dim cross_head_dim",
    "intermediate": "intermediate_size block_ff_dim ffn_dim n_inner encoder_ffn_dim decoder_ffn_dim "
    "intermediate_size_mlp ffn_hidden_size projection_intermediate_size",
    "expert_intermediate": "moe_intermediate_size expert_hidden_dim expert_ffn_hidden_size "
    "shared_expert_intermediate_size moe_shared_expert_intermediate_size shared_intermediate_size "
    "moe_latent_size moe_hidden_size share_expert_dim",
    "experts": "num_experts num_local_experts n_routed_experts moe_num_experts",
    "groups": "n_group",
    "top_k": "num_experts_per_tok moe_topk moe_k top_k_experts",
    "vocabulary": "vocab_size vocab_size_per_layer_input padded_vocab_size",
    # of the language model, whichever tower says it
    "text.hidden": "out_hidden_size text_hidden_size projection_dim output_dim projector_hidden_size "
    "projector_output_dim vision_output_dim lm_hidden_size llm_hidden_size thinker_hidden_size",
    "tower.hidden": "vision_hidden_size vit_hidden_size pixel_hidden_size "
    "encoder_hidden_size mm_hidden_size projector_input_dim audio_hidden_size mm_embed_dim output_proj_dims",
}
LAYERS = (
    "num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers", "depth",
    "num_decoder_layers",
)  # fmt: skip
# Numbers that no choice is about, small enough and divisible by 4 where ranks divide them.
_FIXED = {
    # latent attention and its indexer
    "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 24, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 8,
    # state space and linear attention
    "mamba_d_head": 16, "mamba_head_dim": 16, "n_groups": 4, "mamba_d_state": 16,
    "ssm_state_size": 16, "mamba_dt_rank": 4, "mamba_chunk_size": 16, "chunk_size": 16,
    "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_num_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_head_dim": 16,
    # what is drawn of experts, and the layers that predict further tokens, of which there are none
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1, "zero_expert_num": 2,
    "topk_group": 1,
    "num_nextn_predict_layers": 0, "num_mtp_layers": 0, "mtp_num_hidden_layers": 0,
    # lengths
    "max_position_embeddings": 256, "n_positions": 256, "max_source_positions": 64, "max_target_positions": 64,
    "sliding_window": 32, "sliding_window_size": 32, "window_size": 28, "local_attention": 32,
    "rotary_dim": 8, "block_multiple_of": 16,
    "original_max_position_embeddings": 64, "hidden_size_per_layer_input": 16,
    # images and sounds
    "image_size": 28, "patch_size": 14, "num_position_embeddings": 16, "num_mel_bins": 16,
    "mm_posemb_size": 16, "model_patch_size": 14, "position_embedding_size": 64,
}  # fmt: skip

LATENT_HEADS = ("qk_rope_head_dim", "v_head_dim", "qk_nope_head_dim", "qk_head_dim")
MAMBA_HEADS = {"mamba_n_heads": "mamba_d_head", "mamba_num_heads": "mamba_head_dim"}
_TOWERS = ("vision", "visual", "vit", "audio", "encoder", "speech", "qformer", "token2wav")
ROLES: Mapping[str, str] = {name: role for role, names in _OF_CHOICE.items() for name in names.split()}
FIXED: Mapping[str, int] = _FIXED


def is_token(name: str) -> bool:
    """Whether a number is one of the vocabulary."""
    return name.endswith(("token_id", "_token_index", "_start_id", "_end_id", "newline_id", "_patch_id"))


def is_tower(name: str) -> bool:
    """Whether a configuration in another one is of what sees or hears."""
    return any(part in name for part in _TOWERS)


def subconfigs(data: Mapping[str, object]) -> Iterator[str]:
    """The names of the configurations in a configuration."""
    for name, value in data.items():
        if isinstance(value, dict) and (name.endswith("_config") or "model_type" in value):
            yield name
