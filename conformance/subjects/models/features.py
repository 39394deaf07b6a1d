"""What a PEFT adapter may be beyond A, B and a scaling: how PEFT is told of it, and what a refusal calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from conformance.subjects.outcomes import NotApplicable
from strategies.models.adapters import EMBEDDING, FURTHER_LAYER, SAVED_EMBEDDING

_NUMBER = re.compile(r"\.\d+\.")
BEYOND = 99  # the number of a layer, where the model has a few

# A value for `LoraConfig`, and the word by which a refusal names the feature, in small letters.
ASKED: Mapping[str, tuple[Any, str]] = {
    "init_lora_weights": ("pissa", "init_lora_weights"),  # which changes the base when PEFT loads it
    "alora_invocation_tokens": ([1], "alora"),
    "layer_replication": ([[0, 1], [0, 1]], "layer_replication"),
    "use_dora": (True, "dora"),
    "lora_bias": (True, "bias"),
    "trainable_token_indices": ([0, 2], "trainable_token"),
    FURTHER_LAYER: (None, f".{BEYOND}."),  # which `LoraConfig` is not told, nor the next
    SAVED_EMBEDDING: (None, EMBEDDING),
}


def asked(feature: str) -> dict[str, Any]:
    """Further arguments of `LoraConfig`; none without a feature."""
    told = ASKED[feature][0] if feature else None
    return {} if told is None else {feature: told}


def prepare(model: Any, feature: str) -> None:
    """Changes the base where who trains does so before: the last token of the vocabulary is given other numbers.

    Raises:
        NotImplementedError: the model does not say where its embedding is.
    """
    if feature == SAVED_EMBEDDING:
        model.get_input_embeddings().weight.data[-1] += 1


def add_layer(file: Path, modules: Sequence[Sequence[str]]) -> None:
    """Writes the tensors of one of ``modules`` again, by the names that they would have in layer `BEYOND`.

    Raises:
        NotApplicable: none of them is of a layer.
    """
    tensors = load_file(file)
    for keys in modules:
        further = {_NUMBER.sub(f".{BEYOND}.", key, count=1): tensors[key].clone() for key in keys}
        if not further.keys() & tensors.keys():
            save_file({**tensors, **further}, file)
            return
    raise NotApplicable("the adapter is of no layer")


def tells(message: str, feature: str) -> bool:
    """Whether a refusal names the feature."""
    return ASKED[feature][1] in message.lower()
