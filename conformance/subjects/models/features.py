"""What a PEFT adapter may be beyond A, B and a scaling: how PEFT is told of it, and what a refusal calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A value for `LoraConfig`, and the word by which a refusal names the feature, in small letters.
ASKED: Mapping[str, tuple[Any, str]] = {
    "init_lora_weights": ("pissa", "init_lora_weights"),  # which changes the base when PEFT loads it
    "alora_invocation_tokens": ([1], "alora"),
    "layer_replication": ([[0, 1], [0, 1]], "layer_replication"),
    "use_dora": (True, "dora"),
    "lora_bias": (True, "bias"),
    "trainable_token_indices": ([0, 2], "trainable_token"),
}


def asked(feature: str) -> dict[str, Any]:
    """Further arguments of `LoraConfig`; none without a feature."""
    return {feature: ASKED[feature][0]} if feature else {}


def tells(message: str, feature: str) -> bool:
    """Whether a refusal names the feature."""
    return ASKED[feature][1] in message.lower()
