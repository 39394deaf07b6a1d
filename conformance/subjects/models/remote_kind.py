"""What is said of an architecture whose code is published with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RemoteCode:
    """One architecture.

    ``published`` is its config.json without what `COMMON` has, ``names`` are patterns of vLLM's names that
    checkpoints have otherwise, ``experts`` what they call an expert's gate, up and down projection. ``packed`` are
    patterns of layers that vLLM's class packs, and declares otherwise or not at all, with their members in files, the
    last as ``member:`` where it has all the rows that are left; ``without`` are names of `COMMON` that it has not;
    ``decoder`` is where the language model is among towers; ``kept`` says that vLLM's own class of the configuration
    does not write what it reads, so that what is published is kept instead. ``small`` is put into the small
    configuration, by dotted name, where sizes depend on each other.
    """

    model_type: str
    published: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    experts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    decoder: str = ""
    kept: bool = False
    small: Mapping[str, object] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """The whole config.json; what is common is the language model's, which may have a configuration of its own."""
        own = any(name in self.published for name in ("llm_config", "text_config", "language_config"))
        common = {"tie_word_embeddings": False} if own else COMMON
        common = {name: value for name, value in common.items() if name not in self.without}
        return {**common, **self.published, "model_type": self.model_type}


COMMON: Mapping[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
CHATGLM: Mapping[str, Any] = {
    "num_layers": 28, "padded_vocab_size": 65024, "ffn_hidden_size": 13696, "kv_channels": 128, "seq_length": 8192,
    "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True, "original_rope": True,
}  # fmt: skip
LLAMA: Mapping[str, Any] = {**COMMON, "model_type": "llama"}
WHISPER: Mapping[str, Any] = {
    "model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "decoder_layers": 4, "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120, "num_mel_bins": 128, "max_source_positions": 1500, "vocab_size": 51866,
}  # fmt: skip
