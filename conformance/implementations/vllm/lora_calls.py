"""The calls on vLLM's LoRA layers that its model manager makes: a slot is loaded, tokens are mapped to adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from conformance.implementations.protocol import Refused
from conformance.implementations.vllm.runtime import runtime

_LEAST_TOKENS = 64
_VOCABULARY = 32  # of no meaning to linear layers


def scaled(lora_b: Tensor, scaling: float) -> Tensor:
    """What `LoRALayerWeights.optimize` makes of B, on a copy: vLLM multiplies the caller's tensor in place."""
    return lora_b if scaling == 1.0 else lora_b * scaling


def set_lora(wrapped: Any, slot: int, lora_a: list[Tensor | None], lora_b: list[Tensor | None]) -> None:
    """Loads a slot; one tensor of each is handed over by itself, as vLLM's manager does.

    Raises:
        Refused: vLLM does not take them.
    """
    try:
        if len(lora_a) == 1:
            wrapped.set_lora(slot, lora_a[0], lora_b[0])
        else:
            wrapped.set_lora(slot, lora_a, lora_b)
    except ValueError as error:
        raise Refused(f"set_lora: {error}") from error


def map_tokens(wrapped: Any, ids: list[int]) -> None:
    """Tells a layer each token's adapter; slot s holds adapter s + 1, and 0 is none."""
    slots = max_loras(wrapped)
    mapper = wrapped.__dict__.get("token_mapper")
    if mapper is None or mapper[0] < len(ids):
        size = max(_LEAST_TOKENS, len(ids))
        wrapper = runtime().punica_wrapper.get_punica_wrapper(
            size, max_batches=size, device=wrapped.lora_a_stacked[0].device, lora_config=wrapped.lora_config
        )
        mapper = wrapped.__dict__["token_mapper"] = (size, wrapper)
        wrapped.set_mapping(wrapper)
    mapping = runtime().lora_layers.LoRAMapping(index_mapping=ids, prompt_mapping=ids, is_prefill=False)
    mapper[1].update_metadata(mapping, list(range(1, slots + 1)), slots + 1, _VOCABULARY)


def max_loras(wrapped: Any) -> int:
    """How many slots a LoRA layer has."""
    return int(wrapped.lora_config.max_loras)
