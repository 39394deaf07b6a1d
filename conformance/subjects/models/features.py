"""What a PEFT adapter may be beyond A, B and a scaling: how PEFT is told of it, and what a refusal calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strategies.models.adapters import EMBEDDING, SAVED_EMBEDDING

# A value for `LoraConfig`, and the word by which a refusal names the feature, in small letters.
ASKED: Mapping[str, tuple[Any, str]] = {
    "init_lora_weights": ("pissa", "init_lora_weights"),  # which changes the base when PEFT loads it
    "alora_invocation_tokens": ([1], "alora"),
    "layer_replication": ([[0, 1], [0, 1]], "layer_replication"),
    "use_dora": (True, "dora"),
    "lora_bias": (True, "bias"),
    "trainable_token_indices": ([0, 2], "trainable_token"),
    SAVED_EMBEDDING: (None, EMBEDDING),  # which `LoraConfig` is not told
}


def asked(feature: str) -> dict[str, Any]:
    """Further arguments of `LoraConfig`; none without a feature."""
    return {feature: ASKED[feature][0]} if feature not in ("", SAVED_EMBEDDING) else {}


def prepare(model: Any, feature: str) -> None:
    """Changes the base where who trains does so before: the last token of the vocabulary is given other numbers.

    Raises:
        NotImplementedError: the model does not say where its embedding is.
    """
    if feature == SAVED_EMBEDDING:
        model.get_input_embeddings().weight.data[-1] += 1


def tells(message: str, feature: str) -> bool:
    """Whether a refusal names the feature."""
    return ASKED[feature][1] in message.lower()
