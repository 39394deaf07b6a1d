"""vLLM's registry of model classes, read from its source: nothing is imported, which would take half a minute."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from conformance.implementations.vllm.runtime import Chosen, installed_version

_LORA, _STACKED = "supports_lora", "is_3d_moe_weight"  # flags of classes
_Named = ast.ClassDef | ast.Assign | tuple[str, str]  # a class, what one is made of by a call, or where it comes from


@dataclass(frozen=True, slots=True)
class Registered:
    """One architecture and the class that serves it."""

    architecture: str
    module: str
    class_name: str
    table: str  # of the registry, such as _SPECULATIVE_DECODING_MODELS

    @property
    def place(self) -> tuple[str, str]:
        """Where the class is: its module and its name there."""
        return self.module, self.class_name

    @property
    def lora(self) -> bool:
        """Whether the class declares LoRA support."""
        return _flag(self.module, self.class_name, _LORA) is True

    @property
    def stacked(self) -> bool:
        """Whether it takes adapters that have the experts of a layer in one tensor without being asked to."""
        return _flag(self.module, self.class_name, _STACKED) is True


@functools.cache
def registered() -> Mapping[str, Registered]:
    """Every architecture of the installed vLLM, in the registry's order.

    Raises:
        MissingPrerequisite: vLLM is not installed.
    """
    installed_version()
    tables = {
        statement.targets[0].id: statement.value
        for statement in _source("vllm.model_executor.models.registry").body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }

    def entries(name: str) -> Iterator[Registered]:
        table = tables[name]
        assert isinstance(table, ast.Dict)
        for key, value in zip(table.keys, table.values, strict=True):
            if key is not None:
                module, cls = ast.literal_eval(value)
                path = module if module.startswith("vllm.") else f"vllm.model_executor.models.{module}"
                yield Registered(ast.literal_eval(key), path, cls, name)
            elif isinstance(value, ast.Name):  # one dictionary spread in another
                yield from entries(value.id)

    return {entry.architecture: entry for entry in entries("_VLLM_MODELS")}


def converted(architecture: str) -> Registered | None:
    """The entry whose class vLLM makes into a classifier or an embedding model to serve an architecture.

    That of Qwen3ForCausalLM for Qwen3ForSequenceClassification; None where the registry has the architecture itself,
    or nothing for it.
    """
    known, ends = registered(), _ends()
    end, to = next(((end, to) for end, to in ends.items() if architecture.endswith(end)), ("", "none"))
    if to == "none" or architecture in known:
        return None
    bases = (architecture.removesuffix(end) + one for one in ends)
    return next((known[base] for base in bases if base in known), None)


@functools.cache
def _ends() -> Mapping[str, str]:
    """Ends of names, in the order in which vLLM tries them, and what it converts a class to for each."""
    for line in _source("vllm.config.model").body:
        if isinstance(line, ast.AnnAssign) and getattr(line.target, "id", "") == "_SUFFIX_TO_DEFAULTS" and line.value:
            return {end: to for end, (_, to) in ast.literal_eval(line.value)}
    return {}


def ancestors(module: str, name: str) -> Iterator[tuple[str, str]]:
    """A class and those that it derives from or is made of, the nearest first, by module and name."""
    found = _names(module).get(name)
    if isinstance(found, tuple):
        yield from ancestors(*found)
    elif found is not None:
        yield module, name
        for origin in _origins(found, name):
            yield from ancestors(module, origin)


@functools.cache
def _flag(module: str, name: str, flag: str) -> bool | None:
    """What a class says of a flag, or the first of its bases that says anything; None where none does."""
    found = _names(module).get(name)
    if found is None:
        return None
    if isinstance(found, tuple):
        return _flag(*found, flag)
    if isinstance(found, ast.ClassDef):
        for line in found.body:
            if isinstance(line, (ast.Assign, ast.AnnAssign)) and line.value is not None:
                target = line.targets[0] if isinstance(line, ast.Assign) else line.target
                if isinstance(target, ast.Name) and target.id == flag:
                    return bool(ast.literal_eval(line.value))
    said = (_flag(module, origin, flag) for origin in _origins(found, name))
    return next((answer for answer in said if answer is not None), None)


def _origins(found: ast.ClassDef | ast.Assign, name: str) -> list[str]:
    nodes = found.bases if isinstance(found, ast.ClassDef) else ast.walk(found.value)
    return [node.id for node in nodes if isinstance(node, ast.Name) and node.id != name]


@functools.cache
def _names(module: str) -> Mapping[str, _Named]:
    """A module's classes, what it makes of classes, and what it imports from elsewhere in vLLM."""
    names: dict[str, _Named] = {}
    package = module if source_file(module).name == "__init__.py" else module.rpartition(".")[0]
    for statement in _taken(_source(module).body):
        if isinstance(statement, ast.ClassDef):
            names[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = statement
        elif isinstance(statement, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)
            if origin.startswith("vllm."):
                names.update({one.asname or one.name: (origin, one.name) for one in statement.names})
    return names


def _taken(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module; of branches by platform those of the one in use, of other branches all."""
    for statement in statements:
        if isinstance(statement, ast.If):
            asked = getattr(getattr(statement.test, "func", None), "attr", "")
            if not asked.startswith("is_") or asked == f"is_{Chosen.device}":
                yield from _taken(statement.body)
            if asked != f"is_{Chosen.device}":
                yield from _taken(statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from _taken(statement.body)
        else:
            yield statement


def _source(module: str) -> ast.Module:
    return ast.parse(source_file(module).read_text(encoding="utf-8"))


@functools.cache
def source_file(module: str) -> Path:
    """The file of a module of vLLM, whose packages are not imported to find it."""
    spec = importlib.util.find_spec("vllm")
    root = Path((spec.origin if spec else None) or "").parent
    path = root.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
