"""Checkpoints that transformers does not make, as Python text: the modules that are adapted, by the names in files.

What is made is a tree of them, of torch's own layers; vLLM makes up every other weight, the same ones each time
(``load_format="dummy"``), and its model's own loader takes these, with the adapter merged into them or without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conformance.subjects.models.checkpoints import content_of, resolved
from conformance.subjects.models.counterparts import transformers
from conformance.subjects.models.kept_configs import KeptConfig
from conformance.subjects.models.observing import chains
from conformance.subjects.models.sizes import subconfigs
from conformance.subjects.models.skeletons import config_class
from conformance.subjects.outcomes import HarnessError, NotApplicable
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import indented, one_line
from conformance.test_files.model_configs import constant, left_out, needed
from lora_compat.checkpoint_map import shapes_in
from strategies.models.adapters import ANY_NUMBER, ModelAdapter
from strategies.models.cases import ModelCase

_TREE = """
def tree() -> torch.nn.Module:  # what is adapted, by its names in checkpoints
    root = torch.nn.Module()
    for name, (rows, columns) in MODULES.items():
        place, (*parents, last) = root, name.split(".")
        for part in parents:
            place.add_module(part, getattr(place, part, torch.nn.Module()))
            place = getattr(place, part)
        place.add_module(last, torch.nn.Linear(columns, rows, bias=False))
    return root
""".strip("\n")
_LINEAR = "torch.nn.Linear(columns, rows, bias=False)"
_SAVE = """
def save(model: Any, directory: str) -> None:
    Path(directory).mkdir()
    Path(f"{directory}/config.json").write_text(json.dumps(CONFIG))
""".strip("\n")
_CHAIN = """
name = "{name}"
base: Any = {layer}
for part in reversed(name.split(".")):
    base = torch.nn.ModuleDict({{part: base}})
""".strip("\n")
_WRITTEN = """
Path({0}).mkdir()
Path({1}/config.json").write_text(json.dumps(CONFIG))
""".strip("\n")
_SAVED = '    save_file(model.state_dict(), f"{directory}/model.safetensors")'
_KEPT = """
KEPT = type("Kept", (PreTrainedConfig,), {{"model_type": "{0}"}})
AutoConfig.register("{0}", KEPT)  # stands in for what is published
""".strip("\n")
_INSIDE = """
class Kept(PreTrainedConfig):  # stands in for what is published with the weights
    model_type = "{0}"

    def __post_init__(self, **given: Any) -> None:
{1}
        super().__post_init__(**given)


AutoConfig.register("{0}", Kept)
""".strip("\n")
_RECORD = """
class Record(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)
""".strip("\n")


_EXPERT = re.compile(r"\.(experts\.)(\d+)\.")


@dataclass(frozen=True, slots=True)
class SkeletonText:
    """A checkpoint of the adapted modules alone, as a file has it; it says what `ConfigText` does.

    ``content`` is the whole config.json, ``given`` what a file says of it; ``shapes`` are those of the adapted
    weights, by module, of all ``experts`` by one name; ``embeddings`` are those among them. ``kept`` says that no
    library has a class for its configuration; ``named``, that checkpoints have the modules' names; ``loaded``, that
    weights are read from the checkpoint.
    """

    content: Mapping[str, Any]
    given: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]
    experts: int = 0
    embeddings: Sequence[str] = ()
    kept: bool = False
    named: bool = True
    loaded: bool = False

    @property
    def imports(self) -> set[str]:
        """Import lines of the classes that it is made of."""
        return {f"from transformers import {one}" for one in ("AutoConfig", "PreTrainedConfig") if self.kept}

    @property
    def modules(self) -> list[str]:
        """The names of the modules, each expert's own."""
        each = range(self.experts or 1)
        return list(dict.fromkeys(one.replace(ANY_NUMBER, str(at)) for one in self.shapes for at in each))

    def lines(self) -> list[str]:
        """``CONFIG``, ``MODULES`` where there are several, and the class of the configuration."""
        kept = [] if not self.kept or self._inside() else [_KEPT.format(self.content["model_type"])]
        several = [constant("MODULES", self.shapes)] if len(self.modules) > 1 else []
        return [constant("CONFIG", self.given), *several, *kept]

    def publishing(self) -> list[str]:
        """The functions that make and save it."""
        inside = self._inside()
        kept = [_INSIDE.format(self.content["model_type"], "\n".join(inside))] if self.kept and inside else []
        records = [_RECORD] if any("=Record" in one for one in kept) else []
        tree = [self._tree()] if len(self.modules) > 1 else []
        return [*records, *kept, *tree, *([f"{_SAVE}\n{_SAVED}"] if self.loaded else [])]

    def making(self) -> list[str]:
        """Statements that make the ``base`` model."""
        if len(self.modules) > 1:
            return ["base: Any = tree()"]
        ((name, (rows, columns)),) = self.shapes.items()
        linear = f"torch.nn.Linear({columns}, {rows}, bias=False)"
        layer = f"torch.nn.Embedding({rows}, {columns})" if name in self.embeddings else linear
        return _CHAIN.format(layer=layer, name=name).splitlines()

    def saving(self, name: str, directory: str) -> list[str]:
        """Statements that save the model called ``name``."""
        return (
            [f"save({name}, {directory})"] if self.loaded else _WRITTEN.format(directory, directory[:-1]).splitlines()
        )

    def options(self) -> dict[str, Any]:
        """Arguments of ``EngineArgs``."""
        return {"load_format": "dummy", "skip_tokenizer_init": True}

    def loading(self) -> list[str]:
        """Statements that have the ``model`` take what was saved, after vLLM has made up all weights."""
        loaded = 'model.load_weights(load_file(f"{directory}/model.safetensors").items())'
        return [loaded] if self.loaded else []

    def read(self) -> SkeletonText:
        """The same where weights are compared.

        Raises:
            CannotWrite: PEFT's names are not those of the checkpoint.
        """
        if not self.named:
            raise CannotWrite(
                "its checkpoint has other names than the adapter, and weights are compared; replay the case"
            )
        return replace(self, loaded=True)

    def _tree(self) -> str:
        tree = _TREE
        if self.embeddings:
            embeds = f"torch.nn.Embedding(rows, columns) if name in {one_line(tuple(self.embeddings))} else "
            tree = tree.replace(_LINEAR, embeds + _LINEAR)
        if self.experts:
            each = f"for at, (name, (rows, columns)) in itertools.product(range({self.experts}), MODULES.items()):"
            tree = tree.replace("for name, (rows, columns) in MODULES.items():", each)
            tree = tree.replace("name.split", f'name.replace("{ANY_NUMBER}", str(at)).split')
        return tree

    def _inside(self) -> list[str]:
        """Statements that make configurations, and records, of what is inside of what is ``given``."""
        lines = []
        for name in subconfigs(self.given):
            if "model_type" in self.given[name]:
                known = self.given[name]["model_type"] in transformers().CONFIG_MAPPING
                cls = "AutoConfig.for_model" if known else "PreTrainedConfig"
                lines.append(f'given["{name}"] = {cls}(**given["{name}"])')
        for name, value in self.given.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines.append(f'given["{name}"] = json.loads(json.dumps(given["{name}"]), object_hook=Record)')
        return indented(indented(lines))

    def of_these(self, adapter: ModelAdapter) -> ModelAdapter:
        """The part of an adapter that is of these modules."""
        others = adapter.without(tuple(self.modules)).modules
        named = (
            tuple(self.modules) if adapter.all_linear else tuple(one for one in adapter.modules if one not in others)
        )
        return replace(adapter, modules=named)


def skeleton_text(case: ModelCase, only: str = "") -> SkeletonText:
    """The checkpoint of a case, with the modules whose keys of the adapter's file are in ``only``, or all.

    Raises:
        CannotWrite: something else than linear layers and embeddings is adapted, or the format is Mistral's.
    """
    try:
        chain = chains().of(case)
    except (NotApplicable, HarnessError) as error:
        raise CannotWrite(f"its adapter is not made: {error}") from error
    if (chain.base / "params.json").exists():
        raise CannotWrite("a checkpoint in Mistral's format has no form as a single file yet; replay the case")
    alone = [one for one in chain.file.pairs if any(key in only for key in one.keys)]
    pairs = alone or chain.file.pairs
    odd = [one.module for one in pairs if one.delta.ndim != 2 or one.parameter != f"{one.module}.weight"]
    odd += () if alone else chain.file.others
    if odd:
        raise CannotWrite(f"{odd[0]} is no linear layer, and of a checkpoint that transformers does not save so")
    target, content = resolved(case.target), content_of(case)
    cls = target.config_class if target.implementation else config_class(target.architecture)
    own = {name: content[name] for name in ("architectures", "model_type")}
    shapes = {one.module: tuple(one.delta.shape) for one in pairs}
    embeddings = [one.module for one in pairs if "lora_embedding" in one.key_a]
    return SkeletonText(
        content,
        {**own, **_whole(cls, content)},
        *_together(shapes),
        embeddings,
        kept=issubclass(cls, KeptConfig),
        named={one.parameter for one in pairs} <= shapes_in(chain.base).keys(),
    )


def _whole(cls: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json has to say for whoever reads it with this class, or by itself."""
    given = needed(cls, content)
    for name, more in left_out(cls, content).items():
        given |= {name: {**given.get(name, {}), **more}} if name and more else more
    return given


def _together(shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Sequence[int]], int]:
    """All experts of a layer by one name, and how many they are; each by its own, and 0, where not all are alike."""
    found = {_EXPERT.sub(rf".\1{ANY_NUMBER}.", name): shape for name, shape in shapes.items()}
    count = max((int(number) for name in shapes for _, number in _EXPERT.findall(name)), default=-1) + 1
    all_of = {one.replace(ANY_NUMBER, str(at)): shape for one, shape in found.items() for at in range(count)}
    return (found, count) if count > 1 and all_of == dict(shapes) else (dict(shapes), 0)
