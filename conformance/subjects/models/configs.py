"""Small configurations: what a model type has by default, with every size made small and every kind of layer kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from conformance.subjects.models.counterparts import transformers
from conformance.subjects.models.layer_lists import kept_layers, number_of_layers, with_layers
from conformance.subjects.models.recipes import recipe_of
from conformance.subjects.models.remote_code import REMOTE_CODE
from conformance.subjects.models.sizes import FIXED, LATENT_HEADS, MAMBA_HEADS, ROLES, is_token, is_tower, subconfigs
from conformance.subjects.models.types import ModelTarget
from strategies.models.configs import ConfigChoices

TOWER = ConfigChoices(head_dim=16, hidden=64, intermediate=96)
_OF_TYPE = ".model_type"
_TIED = "tie_word_embeddings"
_FEATURE_LAYER = "vision_feature_layer"  # whose output is taken, from behind
_SAID_BY_OTHERS = ("head_dim", "num_key_value_heads")  # where they are None, which some classes cannot take
_NOT_OF_A_MODEL = (
    "transformers_version",
    "_name_or_path",
    "dtype",
    "architectures",
    "id2label",
    "label2id",
    "torch_dtype",
    "quantization_config",
    "auto_map",
)


def small_config(target: ModelTarget, choices: ConfigChoices) -> dict[str, Any]:
    """The content of a small config.json of the target's type.

    Raises:
        Whatever transformers does for a type whose default configuration cannot be made.
    """
    config = target.config_class(**target.published()).to_dict()  # which fills in what a published file leaves out
    recipe = recipe_of(target.model_type, target.architecture)
    others = {name.removesuffix(_OF_TYPE): one for name, one in choices.switches if name.endswith(_OF_TYPE)}
    types = {**recipe.get("types", {}), **others}.items()
    _put(config, {name: transformers().AutoConfig.for_model(one).to_dict() for name, one in types})
    if "text_config" in others:  # the ends are tied as in the language model that there is
        config[_TIED] = config["text_config"].get(_TIED, config.get(_TIED))
    _put(config, recipe.get("before", {}))
    small = _shrunk(config, choices, choices)
    _renumber_tokens(small, choices.vocabulary)
    _put(small, recipe.get("after", {}) if target.implementation else REMOTE_CODE[target.architecture].small)
    for name, value in choices.switches:
        _put(small, {name: value})
        if name == _TIED:  # says so for the whole, and for the language model in it
            _put(small, {f"{one}.{name}": value for one in subconfigs(small) if name in small[one]})
    return {**small, "model_type": target.model_type, "architectures": [target.architecture]}


def _shrunk(config: Mapping[str, Any], own: ConfigChoices, text: ConfigChoices) -> dict[str, Any]:
    """A configuration and those in it; ``own`` are the choices for it, ``text`` those for its language model."""
    small = {name: copy.deepcopy(value) for name, value in config.items() if name not in _NOT_OF_A_MODEL}
    if number_of_layers(small):
        small = with_layers(small, kept_layers(small, own.layers))
    for name, value in small.items():
        small[name] = _size(name, value, own, text)
    small.update(_consequences(config, small))
    for of_layer in small.get("per_layer_config", {}).values():
        of_layer.update(_in_proportion(of_layer, config, small))
    _scale_rotary(small, own)
    for name in subconfigs(small):
        small[name] = _shrunk(small[name], _of_tower(config) if is_tower(name) else own, text)
    return small


def _of_tower(config: Mapping[str, Any]) -> ConfigChoices:
    """Choices for the towers of a configuration: one layer more than the last ones that are left out, if any are."""
    taken = config.get(_FEATURE_LAYER)
    return replace(TOWER, layers=max(1, -taken)) if isinstance(taken, int) else TOWER


def _size(name: str, value: Any, own: ConfigChoices, text: ConfigChoices) -> Any:
    """What a value is in the small configuration; zeros and what is no size stay."""
    if isinstance(value, list) and name in ROLES:
        return [_size(name, one, own, text) for one in value]
    if value is None and name in _SAID_BY_OTHERS:
        return getattr(own, ROLES[name])
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return value
    if name in FIXED:
        return min(FIXED[name], value)
    if name not in ROLES:
        return value
    whose, _, field = ROLES[name].rpartition(".")
    return getattr({"text": text, "tower": TOWER, "": own}[whose], field)


def _consequences(config: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that others make: those of latent attention's heads, and of the heads of a state space."""
    sizes: dict[str, Any] = {}
    if "qk_rope_head_dim" in config:
        sizes["qk_head_dim"] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]
        same = [name for name in LATENT_HEADS if config.get(name) == config.get("head_dim")]
        sizes["head_dim"] = {**small, **sizes}[same[0]] if same else small.get("head_dim")
    expand = small.get("mamba_expand", small.get("expand"))
    for name, size in MAMBA_HEADS.items():
        if name in config:
            sizes[name] = expand * small["hidden_size"] // small[size]
    if "mamba_d_ssm" in config:
        sizes["mamba_d_ssm"] = expand * small["hidden_size"]
    return {name: value for name, value in sizes.items() if name in config}


def _in_proportion(of_layer: Mapping[str, Any], config: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's own sizes, as many times those of the others as they were."""
    known = {name: value for name, value in of_layer.items() if name in ROLES and config.get(name)}
    return {name: small[name] * value // config[name] for name, value in known.items()}


def _scale_rotary(config: MutableMapping[str, Any], choices: ConfigChoices) -> None:
    """The parts of a head that turn by time, height and width are as many numbers as half of it."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    for one in (rope, *(inner for inner in rope.values() if isinstance(inner, dict))):
        if "mrope_section" in one:
            half = int(config.get("head_dim", choices.head_dim) * one.get("partial_rotary_factor", 1.0)) // 2
            one["mrope_section"] = _apportioned(half, one["mrope_section"])
        if "original_max_position_embeddings" in one:
            one["original_max_position_embeddings"] = FIXED["original_max_position_embeddings"]


def _apportioned(total: int, shares: Sequence[int]) -> list[int]:
    """A total in whole parts, as nearly in the proportion of shares as can be."""
    exact = [share * total / sum(shares) for share in shares]
    parts = [int(one) for one in exact]
    by_rest = sorted(range(len(shares)), key=lambda place: parts[place] - exact[place])
    for place in by_rest[: total - sum(parts)]:
        parts[place] += 1
    return parts


def _renumber_tokens(config: MutableMapping[str, Any], vocabulary: int) -> None:
    """Tokens get the last numbers of the small vocabulary; those that are the same stay so."""
    numbers: dict[int, int] = {}
    for place in _places(config):
        for name, value in place.items():
            if is_token(name) and isinstance(value, int) and value >= vocabulary // 2:
                place[name] = numbers.setdefault(value, vocabulary - 1 - len(numbers))
            elif is_token(name) and isinstance(value, list):
                place[name] = [one % vocabulary for one in value]


def _places(config: MutableMapping[str, Any]) -> Iterator[MutableMapping[str, Any]]:
    yield config
    for name in list(subconfigs(config)):
        yield from _places(config[name])


def _put(config: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Sets values by dotted name."""
    for name, value in values.items():
        *path, last = name.split(".")
        place = config
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value


def dtypes(target: ModelTarget) -> tuple[str, ...]:
    """The dtypes that its models can be of, the plainest first."""
    return recipe_of(target.model_type, target.architecture).get("dtypes", ("float32", "bfloat16"))
