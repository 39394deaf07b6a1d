"""Which modules of a package define linear layers, as their source says; nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from strategies.libraries import BASE_CLASSES


def modules_with_linear_classes(top: ModuleType) -> list[str]:
    """Names of the modules under package ``top`` with a class whose bases lead, by name, to a linear layer."""
    bases: dict[str, set[str]] = {}
    places: dict[str, list[str]] = {}
    for name, file in _files(top):
        for cls, parents in _classes(file):
            bases.setdefault(cls, set()).update(parents)
            places.setdefault(cls, []).append(name)
    linear = set(BASE_CLASSES.values())
    while True:
        more = {cls for cls, parents in bases.items() if cls not in linear and parents & linear}
        if not more:
            break
        linear |= more
    return sorted({name for cls in linear & set(places) for name in places[cls]})


def _files(top: ModuleType) -> Iterator[tuple[str, Path]]:
    for folder in map(Path, getattr(top, "__path__", ())):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            if all(part.isidentifier() for part in parts):
                yield ".".join((top.__name__, *parts)), file


def _classes(file: Path) -> Iterator[tuple[str, set[str]]]:
    source = file.read_text(encoding="utf-8", errors="replace")
    if "Linear" not in source:  # parsing costs a hundred times as much
        return
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, {_last_name(base) for base in node.bases}


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
