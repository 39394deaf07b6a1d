"""The configuration of a case's checkpoint as Python text: what differs from the type's own default, and no more."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from conformance.subjects.models.checkpoints import content_of, resolved
from conformance.subjects.models.counterparts import transformers
from conformance.subjects.models.heads import has_heads
from conformance.subjects.models.making import made, prefixes, published
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import INDENT, LONGEST
from strategies.models.cases import ModelCase

_OF_THE_FILE = ("architectures", "dtype", "model_type", "transformers_version", "_name_or_path")


@dataclass(frozen=True, slots=True)
class ConfigText:
    """A checkpoint's configuration, as a file has it.

    ``cls`` and ``model`` are transformers' classes; ``given`` is what the configuration is made of, ``published`` what
    transformers leaves out of its config.json and published ones have, by the name of the configuration in it that it
    is of; ``content`` is the whole. ``names`` are patterns of the tensors' names, and what published files have there.
    """

    cls: str
    model: str
    given: Mapping[str, Any]
    published: Mapping[str, Mapping[str, Any]]
    content: Mapping[str, Any]
    names: Mapping[str, str]

    def lines(self) -> list[str]:
        """``CONFIG``, and ``NAMES`` where there are any."""
        return [constant("CONFIG", self.given), *([constant("NAMES", self.names)] if self.names else [])]

    def making(self) -> list[str]:
        """Statements that make the ``base`` model, of the configuration that published checkpoints have."""
        places = {f"base.config.{name}".removesuffix("."): one for name, one in self.published.items() if one}
        made = f"base: Any = {self.model}({self.cls}(**CONFIG))"
        return [made, *(f"vars({place}).update({dict(one)})" for place, one in places.items())]

    def saving(self, name: str, directory: str) -> list[str]:
        """Statements that save the model called ``name`` as published checkpoints are."""
        saved = f"{name}.save_pretrained({directory})"
        return [saved, f"rename({directory})"] if self.names else [saved]

    def options(self) -> dict[str, Any]:
        """Arguments of ``EngineArgs`` for what published checkpoints say of their class, and transformers' do not."""
        architectures = self.content["architectures"]
        if architectures == [self.model]:
            return {}
        pools = self.model.endswith("Model") and not architectures[0].endswith("Model")  # of sentences
        return {"hf_overrides": {"architectures": architectures}, **({"runner": "pooling"} if pools else {})}


def config_text(case: ModelCase) -> ConfigText:
    """The configuration of a case.

    Raises:
        CannotWrite: its checkpoint is saved otherwise than transformers does by itself, or not made by it.
    """
    target = resolved(case.target)
    if not target.implementation:
        raise CannotWrite(f"transformers has no implementation of {target.architecture}; replay the case")
    content = content_of(case)
    recipe = published(target.implementation, content)
    others = (recipe.get("transposed"), recipe.get("interleaved"), recipe.get("folder"), recipe.get("params"))
    if any(others) or has_heads(target.architecture):
        raise CannotWrite(
            f"transformers saves {target.model_type} otherwise than published files are; replay the case"
        )
    cls = target.config_class
    whole = cls(**content).to_dict()
    given = _differing(content, cls().to_dict())
    if _said(cls(**given).to_dict()) != _said(whole):
        given = {name: one for name, one in content.items() if name not in _OF_THE_FILE}
    given = _needed(cls, given, whole)
    names = {**prefixes(made(target, content)), **recipe.get("names", {})}
    left_out = {"": _left_out(content, whole)}
    left_out |= {
        name: _left_out(one, whole[name])
        for name, one in content.items()
        if isinstance(one, dict) and isinstance(whole.get(name), dict)
    }
    return ConfigText(cls.__name__, target.implementation, given, left_out, content, names)


def constant(name: str, value: Mapping[str, Any]) -> str:
    """A module's constant that is a dictionary, in as few lines as hold it, which no formatter breaks."""
    body = json.dumps(dict(value)).replace("null", "None").replace("true", "True").replace("false", "False")
    head = f"{name}: dict[str, Any] = "
    if len(head) + len(body) <= LONGEST:
        return head + body
    whole = head.replace(" ", "\0") + body + "  # fmt: skip".replace(" ", "\0")
    lines = _wrapped(whole.replace('": ', '":\0'))
    if max(map(len, lines)) > LONGEST:  # where a name and its value do not fit into one
        lines = _wrapped(whole)
    text = "\n".join(lines).replace("\0", " ")
    if ast.literal_eval(text.removeprefix(head)) != json.loads(json.dumps(dict(value))):
        raise CannotWrite(f"its configuration has text that cannot be broken into lines: {body[:80]}")
    return text


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, LONGEST, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def _differing(content: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as it is by default; a configuration inside says of what type it is."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        other = default.get(name)
        if name in _OF_THE_FILE or (name in default and value == other):
            continue
        if isinstance(value, dict) and "model_type" in value:
            same = isinstance(other, dict) and other.get("model_type") == value["model_type"]
            inner = _differing(value, other if same and other else _default(value["model_type"]))
            found[name] = {"model_type": value["model_type"], **inner}
        else:
            found[name] = value
    return found


def _needed(cls: Any, given: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the class makes of the rest."""
    needed, said = dict(given), _said(whole)
    for name in given:
        rest = {other: one for other, one in needed.items() if other != name}
        with suppress(Exception):  # a validator's, of any kind
            needed = rest if _said(cls(**rest).to_dict()) == said else needed
    return needed


def _default(model_type: str) -> Mapping[str, Any]:
    try:
        default: Mapping[str, Any] = transformers().AutoConfig.for_model(model_type).to_dict()
    except ValueError:  # of a type that is known inside of others only
        return {}
    return default


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says where a configuration is from."""
    return {
        name: _said(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in ("architectures", "dtype", "transformers_version", "_name_or_path")
    }


def _left_out(content: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in saved and name not in _OF_THE_FILE}
