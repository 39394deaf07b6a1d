"""The language model in a model: where it is, what its parameters are for, and what its own class calls them."""

from __future__ import annotations

import re
from typing import Any

from conformance.subjects.models.counterparts import transformers

_NUMBERED = re.compile(r"\.\d+\.")
_HEAD = "lm_head"


def decoder_of(model: Any) -> str:
    """The name of the language model in ``model``, empty where it is the whole, or nobody says."""
    try:
        decoder = model.get_decoder()
    except (AttributeError, NotImplementedError):
        return ""
    return next((name for name, module in model.named_modules() if module is decoder), "")


def role_of(parameter: str, decoder: str) -> str:
    """What a parameter is for: its name in a layer of the language model, the place that it is in elsewhere.

    ``mlp.gate`` of ``model.layers.3.mlp.gate.weight``; of a tower, all of whose modules are loaded alike,
    ``model.visual.blocks`` of ``model.visual.blocks.0.attn.qkv.weight``.
    """
    name = parameter.removesuffix(".weight")
    before, number, inside = _NUMBERED.sub(".*.", name).partition(".*.")
    if not decoder or name.startswith(f"{decoder}."):
        return inside if number else before.rpartition(".")[2]
    return before if number else before.rpartition(".")[0] or before


def text_config(model: Any) -> Any:
    """The configuration of the language model inside of a model's own; None where it is the whole."""
    config: Any = getattr(model, "config", None)
    own = config.get_text_config() if hasattr(config, "get_text_config") else config
    return None if own is config else own


def name_alone(module: str, model: Any, decoder: str) -> str:
    """A module's name in the class of the language model alone, as who trains that has it in an adapter file.

    ``model.layers.0.mlp.up_proj`` of ``model.language_model.layers.0.mlp.up_proj``; empty where ``model`` is that
    class, transformers has none, or the module is elsewhere.
    """
    own = text_config(model)
    if own is None or not decoder:
        return ""
    cls: Any = transformers().MODEL_FOR_CAUSAL_LM_MAPPING.get(type(own), None)
    if cls is None:
        return ""
    inside = module.removeprefix(f"{decoder}.")
    if inside == module:
        return module if module == _HEAD else ""
    return inside if isinstance(model.get_submodule(decoder), cls) else f"{cls.base_model_prefix}.{inside}"
