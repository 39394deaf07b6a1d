"""The renderer: a class description as Python source. What is tested is letter for letter what is rendered.

The source is the same for every library of base layers but for its import lines and one option, because the libraries
agree on names, constructor parameters and attributes.
"""

from __future__ import annotations

import enum
from functools import lru_cache

from lora_compat.families import Family
from strategies.cases import LayerSpec
from strategies.methods import methods_of
from strategies.subclasses import Mixins, SubclassSpec

CLASS_NAME = "DrawnLinear"
BASE_CLASSES = {
    Family.REPLICATED: "ReplicatedLinear",
    Family.COLUMN: "ColumnParallelLinear",
    Family.MERGED_COLUMN: "MergedColumnParallelLinear",
    Family.QKV: "QKVParallelLinear",
    Family.ROW: "RowParallelLinear",
}


class Library(enum.Enum):
    """Where the base layers are imported from."""

    LORA_COMPAT = "lora_compat"
    VLLM = "vllm"
    SGLANG = "sglang"

    @property
    def layers_module(self) -> str:
        return {
            "lora_compat": "lora_compat.layers",
            "vllm": "vllm.model_executor.layers.linear",
            "sglang": "sglang.srt.layers.linear",
        }[self.value]

    @property
    def size_import(self) -> str:
        """The import line that makes ``tensor_parallel_size()`` available."""
        return {
            "lora_compat": "from lora_compat.parallel import tensor_parallel_size",
            "vllm": "from vllm.distributed import get_tensor_model_parallel_world_size as tensor_parallel_size",
            "sglang": "from sglang.srt.distributed.parallel_state import "
            "get_tensor_model_parallel_world_size as tensor_parallel_size",
        }[self.value]

    def said(self, source: str) -> str:
        """``source`` in the library's words for a layer's options."""
        if self is not Library.SGLANG:
            return source
        return source.replace("disable_tp=True", 'parallel_group="replicated"').replace(", return_bias=False", "")


@lru_cache(maxsize=4096)
def render(layer: LayerSpec, subclass: SubclassSpec, library: Library) -> str:
    """Python source that defines `CLASS_NAME`, ending in a newline."""
    base = BASE_CLASSES[layer.family]
    if subclass.depth == 0:
        return f"from {library.layers_module} import {base}\n\n{CLASS_NAME} = {base}\n"
    blocks: list[str] = []
    parent = base
    for level in range(1, subclass.depth):
        blocks.append(_class(f"Level{level}", (parent,), methods_of(level, layer, subclass)))
        parent = f"Level{level}"
    blocks.append(_leaf(parent, layer, subclass))
    body = library.said("\n\n".join(blocks))
    imports = ["from typing import Any", ""] if ": Any" in body else []
    imports += ["import torch", ""] if "torch." in body else []
    imports.append(f"from {library.layers_module} import {base}")
    if "tensor_parallel_size()" in body:
        imports.append(library.size_import)
    return "\n".join(imports) + "\n\n\n" + body


def _leaf(parent: str, layer: LayerSpec, subclass: SubclassSpec) -> str:
    methods = methods_of(subclass.depth, layer, subclass)
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
