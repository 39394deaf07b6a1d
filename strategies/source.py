"""The renderer: a class description as Python source. What is tested is letter for letter what is rendered.

The source is the same for every library of base layers but for its import lines and, for torch, the constructor.
"""

from __future__ import annotations

from functools import lru_cache

from strategies.cases import LayerSpec
from strategies.libraries import Library
from strategies.methods import methods_of
from strategies.subclasses import Mixins, SubclassSpec

CLASS_NAME = "DrawnLinear"


@lru_cache(maxsize=4096)
def render(layer: LayerSpec, subclass: SubclassSpec, library: Library) -> str:
    """Python source that defines `CLASS_NAME`, ending in a newline."""
    base = library.base_class(layer.family)
    if subclass.depth == 0:
        return f"from {library.layers_module} import {base}\n\n{CLASS_NAME} = {base}\n"
    blocks: list[str] = []
    parent = base
    for level in range(1, subclass.depth):
        blocks.append(_class(f"Level{level}", (parent,), methods_of(level, layer, subclass, library)))
        parent = f"Level{level}"
    blocks.append(_leaf(parent, layer, subclass, library))
    body = "\n\n".join(blocks)
    imports = ["from typing import Any", ""] if ": Any" in body else []
    imports += ["import torch", ""] if "torch." in body else []
    imports.append(f"from {library.layers_module} import {base}")
    if "tensor_parallel_size()" in body:
        imports.append(library.size_import)
    return "\n".join(imports) + "\n\n\n" + body


def _leaf(parent: str, layer: LayerSpec, subclass: SubclassSpec, library: Library) -> str:
    methods = methods_of(subclass.depth, layer, subclass, library)
    before = ""
    bases: tuple[str, ...] = (parent,)
    if subclass.mixins is Mixins.DIAMOND:
        before = f"class Left({parent}):\n    pass\n\n\nclass Right({parent}):\n    pass\n\n\n"
        bases = ("Left", "Right")
    elif subclass.mixins is not Mixins.NONE:
        before = 'class Tagged:\n    tag = "drawn"\n\n\n'
        bases = ("Tagged", parent) if subclass.mixins is Mixins.BEFORE else (parent, "Tagged")
    if not subclass.dynamic:
        return before + _class(CLASS_NAME, bases, methods)
    functions = "".join(f"{text}\n\n" for _, text in methods)
    namespace = ", ".join(f'"{name}": {name}' for name, _ in methods)
    functions = functions.replace("super()", f"super({CLASS_NAME}, self)")
    parents = ", ".join(bases) + ("," if len(bases) == 1 else "")
    return f'{before}{functions}{CLASS_NAME} = type("{CLASS_NAME}", ({parents}), {{{namespace}}})\n'


def _class(name: str, bases: tuple[str, ...], methods: list[tuple[str, str]]) -> str:
    indented = [
        "".join(f"    {line}" if line.strip() else line for line in text.splitlines(True)) for _, text in methods
    ]
    return f"class {name}({', '.join(bases)}):\n" + ("\n".join(indented) or "    pass\n")
