"""The methods that a drawn class overrides, as Python source."""

from __future__ import annotations

import re

from lora_compat.families import Family
from strategies.cases import LayerSpec
from strategies.constructors import base_arguments, positional_names, renamed
from strategies.forwards import Forward
from strategies.libraries import Library
from strategies.subclasses import Constructor, Loader, SubclassSpec


def methods_of(level: int, layer: LayerSpec, subclass: SubclassSpec, library: Library) -> list[tuple[str, str]]:
    """The methods of one inheritance level: constructor at the first, loader above the leaf, forward in it."""
    found: list[tuple[str, list[str]]] = []
    if level == 1:
        found.append(("__init__", _constructor(layer, subclass, library)))
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


def _constructor(layer: LayerSpec, subclass: SubclassSpec, library: Library) -> list[str]:
    names = positional_names(layer.family, library)
    widened = subclass.loader is Loader.REPLICATED_LAST
    size = "1" if layer.disable_tp else "tensor_parallel_size()"
    if subclass.constructor is Constructor.HARD_CODED:
        arguments = base_arguments(layer, library)
        if widened:
            *first, last = layer.output_sizes
            arguments["output_sizes"] = _Code(f"[{', '.join(map(str, first))}, {last} * {size}]")
        values = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        if not library.takes_quant_config:
            return ["def __init__(self):", f"    super().__init__({values})"]
        return ["def __init__(self, quant_config=None):", f"    super().__init__({values}, quant_config=quant_config)"]
    if subclass.constructor is Constructor.INHERITED and not widened:
        return []
    given = [renamed(name) if subclass.constructor is Constructor.RENAMED else name for name in names]
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
    if forward in _AROUND:
        return [head, *_around(layer, forward)]
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
    added = "None" if layer.skip_bias_add else "self.bias"
    lines += [line.replace("BIAS", added) for line in _PRODUCTS[forward]]
    if forward is not Forward.FUNCTIONAL_LINEAR and forward is not Forward.ADDMM and not layer.skip_bias_add:
        lines += ["    if self.bias is not None:", "        output = output + self.bias"]
    bias = f", {'self.bias' if layer.skip_bias_add else None}" if layer.return_bias else ""
    return [*lines, f"    return output{bias}"]


_PRODUCTS = {
    Forward.OWN_KERNEL: ["    output = torch.matmul(input_, self.weight.t())"],
    Forward.FUNCTIONAL_LINEAR: ["    output = torch.nn.functional.linear(input_, self.weight, BIAS)"],
    Forward.EINSUM: ['    output = torch.einsum("...i,oi->...o", input_, self.weight)'],
    Forward.ADDMM: [
        "    bias = BIAS",
        "    start = input_.new_zeros(self.weight.shape[0]) if bias is None else bias",
        "    flat = torch.addmm(start, input_.reshape(-1, input_.shape[-1]), self.weight.t())",
        "    output = flat.view(*input_.shape[:-1], flat.shape[-1])",
    ],
    Forward.COLUMN_CHUNKS: [
        "    half = (self.weight.shape[0] + 1) // 2",
        "    parts = self.weight[:half], self.weight[half:]",
        "    output = torch.cat([torch.nn.functional.linear(input_, part) for part in parts], dim=-1)",
    ],
    Forward.CACHED_COPY: [
        '    if getattr(self, "kept", None) is None:',
        "        self.kept = self.weight.detach().clone()",
        "    output = torch.nn.functional.linear(input_, self.kept)",
    ],
    Forward.CHILD: [
        '    child = torch.nn.Linear(1, 1, bias=False, device="meta")',
        "    child.weight = self.weight",
        "    output = child(input_)",
    ],
}
_FLAT = "flat = input_.reshape(-1, input_.shape[-1])"
_AROUND = {
    Forward.TOKEN_CHUNKS: (
        "half = (input_.shape[0] + 1) // 2",
        ("input_[:half]", "input_[half:]"),
        "torch.cat([{}, {}])",
    ),
    Forward.TWICE: ("", ("input_", "input_"), "({} + {}) / 2"),
    Forward.PERMUTED: ("", ("input_.flip(0)",), "{}.flip(0)"),
    Forward.MASKED: (
        "keep = input_[..., 0] >= -1",
        ("input_[keep]",),
        "torch.zeros(*input_.shape[:-1], {0}.shape[-1], dtype={0}.dtype, device={0}.device)"
        ".masked_scatter(keep[..., None], {0})",
    ),
    Forward.LARGEST_OF_TWO: (_FLAT, ("torch.maximum(flat.roll(1, 0), flat).view(input_.shape)",), "{}"),
    Forward.LARGEST_SO_FAR: (
        _FLAT,
        ("flat.flip(0).cummax(0).values.view(input_.shape)",),
        "{0}.reshape(-1, {0}.shape[-1]).flip(0).view({0}.shape)",
    ),
    Forward.SCALED_INPUT: ("", ("input_ * 2",), "{}"),
    Forward.NORMALIZED: (
        "scale = 2.0 ** torch.frexp(input_.float().abs().amax(dim=-1, keepdim=True)).exponent",
        ("input_ / scale.to(input_.dtype)",),
        "{}",
    ),
}


def _around(layer: LayerSpec, forward: Forward) -> list[str]:
    """The base class's forward, once or twice, of something made of the input, and what is made of its outputs."""
    before, inputs, result = _AROUND[forward]
    lines = [f"    {before}"] if before else []
    names = ["output", "other"][: len(inputs)]
    for name, given in zip(names, inputs, strict=True):
        lines.append(f"    {name}{', output_bias' if layer.return_bias else ''} = super().forward({given})")
    returned = result.format(*names)
    return [*lines, f"    return {returned}{', output_bias' if layer.return_bias else ''}"]
