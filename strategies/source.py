"""The renderer: a class description as Python source. What is tested is letter for letter what is rendered.

The source is the same for every library of base layers but for its import lines, because the libraries agree on
names, constructor parameters and attributes.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache

from lora_compat.families import Family
from strategies.cases import Constructor, Forward, LayerSpec, Loader, Mixins, SubclassSpec

CLASS_NAME = "DrawnLinear"
BASE_CLASSES = {
    Family.REPLICATED: "ReplicatedLinear",
    Family.COLUMN: "ColumnParallelLinear",
    Family.MERGED_COLUMN: "MergedColumnParallelLinear",
    Family.QKV: "QKVParallelLinear",
    Family.ROW: "RowParallelLinear",
}

# How a constructor with names of its own calls its sizes.
_OTHER_NAMES = {
    "input_size": "d_in",
    "hidden_size": "d_in",
    "output_size": "d_out",
    "output_sizes": "widths",
    "head_size": "d_head",
    "total_num_heads": "heads",
    "total_num_kv_heads": "kv_heads",
}


class Library(enum.Enum):
    """Where the base layers are imported from."""

    LORA_COMPAT = "lora_compat"
    VLLM = "vllm"

    @property
    def layers_module(self) -> str:
        return {"lora_compat": "lora_compat.layers", "vllm": "vllm.model_executor.layers.linear"}[self.value]

    @property
    def size_import(self) -> str:
        """The import line that makes ``tensor_parallel_size()`` available."""
        return {
            "lora_compat": "from lora_compat.parallel import tensor_parallel_size",
            "vllm": "from vllm.distributed import get_tensor_model_parallel_world_size as tensor_parallel_size",
        }[self.value]


def positional_names(family: Family) -> tuple[str, ...]:
    """The size parameters of a family's constructor, in order."""
    if family is Family.QKV:
        return "hidden_size", "head_size", "total_num_heads", "total_num_kv_heads"
    return "input_size", "output_sizes" if family is Family.MERGED_COLUMN else "output_size"


def base_arguments(layer: LayerSpec) -> dict[str, object]:
    """The keyword arguments of the family's base class, but for those that say what the default says."""
    sizes: tuple[object, ...]
    if layer.family is Family.QKV:
        assert layer.heads is not None
        sizes = (layer.input_size, layer.heads.size, layer.heads.query, layer.heads.key_value)
    elif layer.family is Family.MERGED_COLUMN:
        sizes = (layer.input_size, list(layer.output_sizes))
    else:
        sizes = (layer.input_size, layer.output_sizes[0])
    options: dict[str, object] = {"bias": layer.bias}
    if layer.family in (Family.COLUMN, Family.MERGED_COLUMN):
        options["gather_output"] = layer.gather_output
    if layer.family is Family.ROW:
        options |= {"input_is_parallel": layer.input_is_parallel, "reduce_results": layer.reduce_results}
    options |= {name: True for name in ("skip_bias_add", "disable_tp") if getattr(layer, name)}
    if not layer.return_bias:
        options["return_bias"] = False
    return {**dict(zip(positional_names(layer.family), sizes, strict=True)), **options}


def constructor_arguments(layer: LayerSpec, subclass: SubclassSpec) -> dict[str, object]:
    """The keyword arguments that build the rendered class."""
    if subclass.constructor is Constructor.HARD_CODED and subclass.depth:
        return {}
    arguments = base_arguments(layer)
    if subclass.constructor is Constructor.RENAMED and subclass.depth:
        return {_renamed(name): value for name, value in arguments.items()}
    return arguments


@lru_cache(maxsize=4096)
def render(layer: LayerSpec, subclass: SubclassSpec, library: Library) -> str:
    """Python source that defines `CLASS_NAME`, ending in a newline."""
    base = BASE_CLASSES[layer.family]
    if subclass.depth == 0:
        return f"from {library.layers_module} import {base}\n\n{CLASS_NAME} = {base}\n"
    blocks: list[str] = []
    parent = base
    for level in range(1, subclass.depth):
        blocks.append(_class(f"Level{level}", (parent,), _methods(level, layer, subclass, f"Level{level}")))
        parent = f"Level{level}"
    blocks.append(_leaf(parent, layer, subclass))
    body = "\n\n".join(blocks)
    imports = ["from typing import Any", ""] if ": Any" in body else []
    imports += ["import torch", ""] if "torch." in body else []
    imports.append(f"from {library.layers_module} import {base}")
    if "tensor_parallel_size()" in body:
        imports.append(library.size_import)
    return "\n".join(imports) + "\n\n\n" + body


def _leaf(parent: str, layer: LayerSpec, subclass: SubclassSpec) -> str:
    methods = _methods(subclass.depth, layer, subclass, CLASS_NAME)
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


def _methods(level: int, layer: LayerSpec, subclass: SubclassSpec, owner: str) -> list[tuple[str, str]]:
    """The methods of one inheritance level: constructor at the first, loader above the leaf, forward in it."""
    found: list[tuple[str, list[str]]] = []
    if level == 1:
        found.append(("__init__", _constructor(layer, subclass)))
    if level == max(1, subclass.depth - 1):
        found.append(("weight_loader", _loader(layer, subclass.loader)))
    if level == subclass.depth:
        found.append(("forward", _forward(layer, subclass.forward)))
    return [(name, "\n".join([_typed(lines[0]), *lines[1:]]) + "\n") for name, lines in found if lines]


def _typed(head: str) -> str:
    """A method's first line with annotations; of a base class nobody knows more than that it takes anything."""
    arguments = re.sub(r"(\w+)(=\w+)?(?=[,)])", _annotated, head.removesuffix(":"))
    return f"{arguments} -> {'None' if head.startswith('def __init__') else 'Any'}:"


def _annotated(found: re.Match[str]) -> str:
    name, default = found[1], found[2]
    if name == "self":
        return name
    return f"{name}: Any = {default[1:]}" if default else f"{name}: Any"


def _renamed(name: str) -> str:
    return _OTHER_NAMES.get(name, name)


def _constructor(layer: LayerSpec, subclass: SubclassSpec) -> list[str]:
    names = positional_names(layer.family)
    widened = subclass.loader is Loader.REPLICATED_LAST
    size = "1" if layer.disable_tp else "tensor_parallel_size()"
    if subclass.constructor is Constructor.HARD_CODED:
        arguments = base_arguments(layer)
        if widened:
            *first, last = layer.output_sizes
            arguments["output_sizes"] = _Code(f"[{', '.join(map(str, first))}, {last} * {size}]")
        values = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        return ["def __init__(self, quant_config=None):", f"    super().__init__({values}, quant_config=quant_config)"]
    if subclass.constructor is Constructor.INHERITED and not widened:
        return []
    given = [_renamed(name) if subclass.constructor is Constructor.RENAMED else name for name in names]
    passed = [f"[*{name}[:-1], {name}[-1] * {size}]" if widened and name == given[1] else name for name in given]
    star = "*, " if subclass.constructor is Constructor.RENAMED else ""
    return [
        f"def __init__(self, {star}{', '.join(given)}, **options):",
        f"    super().__init__({', '.join(passed)}, **options)",
    ]


class _Code(str):
    """Text that renders as code, not as a string literal."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _loader(layer: LayerSpec, loader: Loader) -> list[str]:
    if loader is Loader.INHERITED:
        return []
    takes_shard = layer.family in (Family.MERGED_COLUMN, Family.QKV)
    shard = ", shard_id" if takes_shard else ""
    head = f"def weight_loader(self, param, loaded_weight{', shard_id=None' if takes_shard else ''}):"
    base = f"    super().weight_loader(param, loaded_weight{shard})"
    if loader is Loader.PASS_THROUGH:
        return [head, base]
    last = len(layer.output_sizes) - 1
    return [
        head,
        f"    if shard_id == {last}:",
        f"        start = sum(self.output_partition_sizes[:{last}])",
        f"        param.data.narrow(0, start, self.output_partition_sizes[{last}]).copy_(loaded_weight)",
        "    else:",
        f"    {base}",
    ]


def _forward(layer: LayerSpec, forward: Forward) -> list[str]:
    if forward is Forward.INHERITED:
        return []
    if forward.multiplies_itself:
        return _own_product(layer, forward)
    call = "super().forward(input_)"
    head = "def forward(self, input_):"
    if forward is Forward.PASS_THROUGH:
        return [head, f"    return {call}"]
    if forward is Forward.BARE_TENSOR:
        return [head, f"    return {call}[0]"]
    if forward is Forward.TUPLE:
        return [head, f"    return {call}, None"]
    if forward is Forward.EXTRA_ARGUMENT:
        head = "def forward(self, input_, gate):"
    result = {
        Forward.SCALED: "output * 2",
        Forward.NON_LINEAR: "torch.relu(output)",
        Forward.CAST: "output.to(torch.float64)",
        Forward.SPLIT: "output[..., ::2], output[..., 1::2]",
        Forward.EXTRA_OUTPUT: "output, output.abs().amax(dim=-1)",
        Forward.EXTRA_ARGUMENT: "output * gate",
    }[forward]
    if layer.return_bias:
        return [head, f"    output, output_bias = {call}", f"    return {result}, output_bias"]
    return [head, f"    output = {call}", f"    return {result}"]


def _own_product(layer: LayerSpec, forward: Forward) -> list[str]:
    lines = ["def forward(self, input_):"]
    if forward is Forward.OWN_KERNEL:
        lines += ["    if input_.shape[0] > 2:", "        return super().forward(input_)"]
        lines += ["    output = torch.matmul(input_, self.weight.t())"]
        lines += [
            "    if self.bias is not None and not self.skip_bias_add:",
            "        output = output + self.bias",
        ]
    else:
        lines += ["    bias = None if self.skip_bias_add else self.bias"]
        lines += ["    output = torch.nn.functional.linear(input_, self.weight, bias)"]
    bias = ", (self.bias if self.skip_bias_add else None)" if layer.return_bias else ""
    return [*lines, f"    return output{bias}"]
