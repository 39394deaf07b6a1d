"""A target's model, made by the class of transformers whose name it has or as a skeleton, and its config.json."""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.subjects.models.counterparts import imported
from conformance.subjects.models.heads import write_heads
from conformance.subjects.models.mistral_names import write_params
from conformance.subjects.models.recipes import Recipe, recipe_of
from conformance.subjects.models.skeletons import skeleton
from conformance.subjects.models.traits import language_model
from conformance.subjects.models.types import WITH_TOWERS, ModelTarget

_RANDOM = ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_")
_SENTENCE_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def prepare() -> None:
    """Imports what makes models and adapters, for the processes that are forked afterwards."""
    for name in (
        "transformers.conversion_mapping",
        "transformers.models.auto.modeling_auto",
        "peft.utils.transformers_weight_conversion",
    ):
        importlib.import_module(name)


def made(target: ModelTarget, content: Mapping[str, Any]) -> nn.Module:
    """The model of a config.json, uninitialized, in the default dtype and on the default device."""
    if not target.implementation:
        return skeleton(target.architecture, content)
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    cls = imported(target.implementation)
    with uninitialized():
        model = cls._from_config(target.config_class(**content), dtype=torch.get_default_dtype())
    # Made, not loaded, a model is saved without the prefixes that published files have inside of towers.
    model._weight_conversions = [
        one
        for one in get_model_conversion_mapping(model, add_legacy=False)
        if one.scope_prefix or not isinstance(one, PrefixChange)
    ] or None
    return model  # type: ignore[no-any-return]


@contextmanager
def uninitialized() -> Iterator[None]:
    """Inside, no parameter is given random numbers, all of which are overwritten; what is computed is computed."""
    from transformers.initialization import TORCH_INIT_FUNCTIONS

    left: dict[str, Any] = {name: _leave for name in _RANDOM if name in TORCH_INIT_FUNCTIONS}
    with patch.multiple(nn.init, **left), patch.dict(TORCH_INIT_FUNCTIONS, left):
        yield


def _leave(tensor: Tensor, *how: Any, **others: Any) -> Tensor:
    return tensor


def complete(directory: Path, content: Mapping[str, Any]) -> None:
    """Puts into a saved config.json what transformers left out of the content that it was made of.

    Published files have it, and vLLM reads it: attributes that transformers 5 no longer knows, and the architecture.
    """
    path = directory / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    made_of = (saved.get("architectures") or [""])[0]
    (architecture,) = content["architectures"]
    if architecture.endswith("Model") or made_of.endswith("Model"):  # of sentences: vLLM takes others for generating
        _write(directory / "modules.json", _SENTENCE_MODULES)
        (directory / "1_Pooling").mkdir(exist_ok=True)
        _write(directory / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    recipe = published(made_of, content)
    _rewrite(directory, recipe, content)
    if "folder" in recipe:
        (directory / recipe["folder"]).mkdir(exist_ok=True)
        (directory / recipe["folder"] / "model.safetensors").hardlink_to(directory / "model.safetensors")
    if recipe.get("params"):
        write_params(directory, content)
    write_heads(directory, content, language_model(content)[1].get("hidden_size", 0))
    _write(path, _merged(saved, content))


def published(made_of: str, content: Mapping[str, Any]) -> Recipe:
    """How published files differ from what transformers' class of that name saves."""
    (architecture,) = content["architectures"]
    recipe = recipe_of(content["model_type"], architecture)
    if made_of.endswith("Model") and architecture.endswith(WITH_TOWERS):  # published with the head that it leaves out
        recipe = {"names": {r"^(?!language_model\.model\.)": "model."}, **recipe}
    return recipe


def prefixes(model: Any) -> dict[str, str]:
    """Patterns of names inside of towers, and what they are with the prefixes that `made` has a model saved with."""
    scopes = {one.scope_prefix: one for one in model._weight_conversions or () if getattr(one, "prefix_to_remove", "")}
    return {rf"\b{scope}\.": f"{scope}.{one.prefix_to_remove}." for scope, one in scopes.items() if scope}


def head_sizes(recipe: Recipe, content: Mapping[str, Any]) -> dict[str, int]:
    """Patterns of the tensors whose halves of a head are side by side in published files, and the size of the head."""
    found: dict[str, Any] = {
        pattern: functools.reduce(lambda place, part: place.get(part, {}), size.split("."), content)
        for pattern, size in recipe.get("interleaved", {}).items()
    }
    return found


def _rewrite(directory: Path, recipe: Recipe, content: Mapping[str, Any]) -> None:
    """Gives saved tensors the names, the orientation and the order of rows that they have in published files."""
    names, transposed = recipe.get("names", {}), recipe.get("transposed", "")
    for path in directory.glob("*.safetensors") if names or transposed else ():
        tensors = load_file(path)
        for pattern, name in names.items():
            tensors = {re.sub(pattern, name, one): tensor for one, tensor in tensors.items()}
        for name in tensors if transposed else ():
            if re.search(transposed, name):
                tensors[name] = tensors[name].mT.contiguous()
        for pattern, head_dim in head_sizes(recipe, content).items():
            for name in (one for one in tensors if re.search(pattern, one)):
                tensors[name] = _interleaved(tensors[name], head_dim)
        save_file(tensors, path, {"format": "pt"})


def _interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """The rows of every head with the halves that rotary embeddings turn into each other side by side."""
    halves: Tensor = weight.unflatten(0, (-1, 2, head_dim // 2))
    return halves.transpose(1, 2).reshape(weight.shape)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _merged(saved: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    both = {**content, **saved}
    for name, value in content.items():
        if isinstance(value, dict) and isinstance(saved.get(name), dict):
            both[name] = _merged(saved[name], value)
    return {**both, **{name: content[name] for name in ("architectures", "model_type") if name in content}}
