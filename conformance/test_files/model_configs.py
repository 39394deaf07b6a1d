"""The configuration of a case's checkpoint as Python text: what differs from the type's own default, and no more."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from conformance.subjects.models.checkpoints import content_of, resolved
from conformance.subjects.models.counterparts import transformers
from conformance.subjects.models.heads import head_tensors
from conformance.subjects.models.making import head_sizes, made, prefixes, published
from conformance.subjects.models.traits import language_model
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import INDENT, LONGEST, indented
from strategies.models.cases import ModelCase

_OF_THE_FILE = ("architectures", "dtype", "model_type", "transformers_version", "_name_or_path")

_OPENED = """
def publish(directory: str) -> None:  # as tensors of published files are
    file = f"{directory}/model.safetensors"
    tensors = load_file(file)
""".strip("\n")
_RENAMED = """
for old, new in NAMES.items():
    tensors = {re.sub(old, new, name): one for name, one in tensors.items()}
""".strip("\n")
_TURNED = """
for name in filter(re.compile(r"{}").search, list(tensors)):
    tensors[name] = tensors[name].mT.contiguous()
""".strip("\n")
_SIDE_BY_SIDE = """
for name in filter(re.compile(r"{}").search, list(tensors)):
    halves = tensors[name].unflatten(0, (-1, 2, {})).transpose(1, 2)
    tensors[name] = halves.reshape(tensors[name].shape)
""".strip("\n")
_MORE = "tensors |= {name: torch.ones(shape) for name, shape in MORE.items()}"
_SAVED = '    save_file(tensors, file, {"format": "pt"})'


@dataclass(frozen=True, slots=True)
class ConfigText:
    """A checkpoint's configuration, as a file has it.

    ``cls`` and ``model`` are transformers' classes; ``given`` is what the configuration is made of, ``published`` what
    transformers leaves out of its config.json and published ones have, by the name of the configuration in it that it
    is of; ``content`` is the whole. ``names`` are patterns of the tensors' names, and what published files have there;
    ``turned`` is the pattern of those that are transposed there, ``heads`` has patterns of those where the halves of a
    head are side by side, with its size; ``more`` are shapes of others, and a ``folder`` has all of them once more.
    """

    cls: str
    model: str
    given: Mapping[str, Any]
    published: Mapping[str, Mapping[str, Any]]
    content: Mapping[str, Any]
    names: Mapping[str, str]
    turned: str
    heads: Mapping[str, int]
    more: Mapping[str, Sequence[int]]
    folder: str

    def lines(self) -> list[str]:
        """``CONFIG``, and ``NAMES`` and ``MORE`` where there are any."""
        others = {"NAMES": self.names, "MORE": self.more}
        return [constant("CONFIG", self.given), *(constant(name, one) for name, one in others.items() if one)]

    def publishing(self) -> list[str]:
        """The function that makes of a saved checkpoint what published ones are; none where it is that already."""
        lines = [_RENAMED] if self.names else []
        lines += [_TURNED.format(self.turned)] if self.turned else []
        lines += [_SIDE_BY_SIDE.format(pattern, size // 2) for pattern, size in self.heads.items()]
        lines += [_MORE] if self.more else []
        return ["\n".join([_OPENED, *indented("\n".join(lines).splitlines()), _SAVED])] if lines else []

    def making(self) -> list[str]:
        """Statements that make the ``base`` model, of the configuration that published checkpoints have."""
        places = {f"base.config.{name}".removesuffix("."): one for name, one in self.published.items() if one}
        made = f"base: Any = {self.model}({self.cls}(**CONFIG))"
        return [made, *(f"vars({place}).update({dict(one)})" for place, one in places.items())]

    def saving(self, name: str, directory: str) -> list[str]:
        """Statements that save the model called ``name`` as published checkpoints are."""
        saved = f"{name}.save_pretrained({directory})"
        copied = f'shutil.copytree({directory}, {directory[:-1]}/{self.folder}")'
        return [saved, *([f"publish({directory})"] if self.publishing() else []), *([copied] if self.folder else [])]

    @property
    def imports(self) -> set[str]:
        """Import lines of the classes that it is made of."""
        return {f"from transformers import {one}" for one in (self.cls, self.model)}

    def loading(self) -> list[str]:
        """Statements that have the ``model`` take what was saved; vLLM's own loader does."""
        return []

    def read(self) -> ConfigText:
        """The same where weights are compared; it has all of them anyway."""
        return self

    def options(self) -> dict[str, Any]:
        """Arguments of ``EngineArgs`` for what published checkpoints say of their class, and transformers' do not."""
        architectures = self.content["architectures"]
        if architectures == [self.model]:
            return {}
        pools = self.model.endswith("Model") and not architectures[0].endswith("Model")  # of sentences
        return {"hf_overrides": {"architectures": architectures}, **({"runner": "pooling"} if pools else {})}


def made_by_transformers(case: ModelCase) -> bool:
    """Whether a case's checkpoint is made by transformers, and saved nearly as published files are."""
    target = resolved(case.target)
    if not target.implementation or head_tensors(target.architecture, 0) is None:
        return False
    return not published(target.implementation, content_of(case)).get("params")


def config_text(case: ModelCase) -> ConfigText:
    """The configuration of a case that is `made_by_transformers`."""
    target, content = resolved(case.target), content_of(case)
    recipe = published(target.implementation, content)
    more = head_tensors(target.architecture, language_model(content)[1].get("hidden_size", 0)) or {}
    cls = target.config_class
    names = {**prefixes(made(target, content)), **recipe.get("names", {})}
    heads = {pattern: size for pattern, size in head_sizes(recipe, content).items() if size}
    rest = recipe.get("transposed", ""), heads, more, recipe.get("folder", "")
    return ConfigText(
        cls.__name__, target.implementation, needed(cls, content), left_out(cls, content), content, names, *rest
    )


def needed(cls: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Of a configuration what its class does not give it anyway."""
    whole = cls(**content).to_dict()
    given = _differing(content, cls().to_dict())
    if _said(cls(**given).to_dict()) != _said(whole):
        given = {name: one for name, one in content.items() if name not in _OF_THE_FILE}
    return _needed(cls, given, whole)


def left_out(cls: Any, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What its class does not write, by the name of the configuration in it that it is of, the whole's by none."""
    whole = cls(**content).to_dict()
    inner = [name for name, one in content.items() if isinstance(one, dict) and isinstance(whole.get(name), dict)]
    return {"": _left_out(content, whole), **{name: _left_out(content[name], whole[name]) for name in inner}}


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
        default = transformers().PreTrainedConfig().to_dict()
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
