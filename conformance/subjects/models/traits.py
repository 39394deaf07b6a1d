"""What a model type leaves open, read off its small configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.subjects.models.configs import small_config
from conformance.subjects.models.sizes import ROLES, is_tower, subconfigs
from conformance.subjects.models.switches import OPTIONS, SWITCHES
from conformance.subjects.models.types import ModelTarget
from strategies.models.configs import ConfigChoices, ModelTraits

TIED = "tie_word_embeddings"
# Booleans that are about training, about generating text or about what a forward returns.
_NOT_OF_MODULES = (
    "use_cache", "return_dict", "output_", "gradient", "is_encoder_decoder", "is_decoder", "add_cross_attention",
    "apply_", "use_mamba", "scale_attn", "_in_fp32", "rescale_", "tie_", "enable_audio_output",
)  # fmt: skip


def traits(target: ModelTarget) -> ModelTraits:
    """What can be drawn for a target."""
    content = small_config(target, ConfigChoices())
    text = language_model(content)[1]
    own = booleans(content)
    return ModelTraits(
        grouped="num_key_value_heads" in text and "qk_rope_head_dim" not in text,
        free_heads="head_dim" in text or "qk_rope_head_dim" in text,
        experts=any(ROLES.get(name) == "experts" and value for name, value in text.items()),
        groups=isinstance(text.get("n_group"), int) and text["n_group"] > 0,
        even=any(name in text for name in ("expand", "mamba_expand")),
        switches=(
            *((name, not own[name]) for name in SWITCHES.get(target.model_type, ()) if name in own),
            *OPTIONS.get(target.model_type, ()),
        ),
    )


def has_towers(content: Mapping[str, Any]) -> bool:
    """Whether a model of that config.json sees or hears."""
    inside = any(is_tower(name) or has_towers(content[name]) for name in subconfigs(content))
    return inside or bool(content.get("is_encoder_decoder"))


def language_model(content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The configuration of the language model, with its dotted name; empty if it is the whole."""
    for name in subconfigs(content):
        if not is_tower(name) and ("text" in name or "llm" in name or "thinker" in name or "language" in name):
            path, found = language_model(content[name])
            return f"{name}.{path}" if path else name, found
    return "", content


def booleans(content: Mapping[str, Any]) -> dict[str, bool]:
    """The booleans of the language model that may change its modules, by dotted name."""
    path, text = language_model(content)
    found = {name: value for name, value in text.items() if isinstance(value, bool)}
    found = {name: value for name, value in found.items() if not any(part in name for part in _NOT_OF_MODULES)}
    tied = {TIED: content[TIED]} if isinstance(content.get(TIED), bool) else {}
    return tied | {f"{path}.{name}" if path else name: value for name, value in found.items()}
