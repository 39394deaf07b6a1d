"""The body of a regression file: the statements that build, wrap, load, run and compare."""

from __future__ import annotations

import re

from conformance.test_files.construction import built, class_name, nested, quant_method
from conformance.test_files.dialects import Dialect
from conformance.test_files.literals import WIDTH, indented, one_line, rows, tensor_text
from conformance.test_files.scenes import (
    DEQUANTIZING,
    POISONED,
    SIBLING,
    TRANSPARENT,
    TWICE_WRAPPED,
    WARMED,
    Scene,
    gate_of,
)
from conformance.values.linear import poisoned
from strategies.cases import Case, Layout
from strategies.quantization import SCALED_BY_ROW

_READ_BY_KERNELS = ("quant_method", "input_size", "output_size", "tp_size", "tp_rank", "output_partition_sizes")
_INLINE = 40  # characters of an argument that the longest call has place for

TENSORS = """
def tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, tuple):
        return [one for item in result for one in tensors(item)]
    return [] if result is None else [result]
""".strip("\n")


def statements(scene: Scene, dialect: Dialect) -> list[str]:
    """What every rank does, from the class to ``outputs``, without indentation."""
    case = scene.case
    lines = built(case, scene.weights, scene.biases, dialect.context if case.tp_size > 1 else None, class_name(case))
    if scene.asks_claimants:
        return [*lines, *dialect.claimants(scene)]
    if scene.clause in TRANSPARENT and scene.anomaly == "hidden-attribute":
        lines.append(f"names = {one_line(list(_READ_BY_KERNELS))}")
        lines.append("known = {name: getattr(layer, name) for name in names if hasattr(layer, name)}")
    lines += dialect.wrap(scene)
    if scene.only_wraps:
        return lines
    if scene.unwraps:
        return [*lines, *nested(scene), f"outputs = {dialect.dense_weight()}.tolist()"]
    if scene.clause in TWICE_WRAPPED:
        again = dialect.wrap(scene)[-1].replace("(layer", "(lora").replace("lora: Any", "lora")
        lines.append(again)
    return [*lines, *_loaded(scene, dialect), *_inlined(_forward(scene, dialect))]


def _inlined(lines: list[str]) -> list[str]:
    """An input that is short and used once needs no name."""
    named = [line for line in lines if line.startswith("x = ")]
    uses = [line for line in lines if re.search(r"\bx\b", line.removeprefix("x = "))]
    if len(named) != 1 or named[0].endswith("(") or len(uses) != 1 or "(x)" not in uses[0]:
        return lines
    inlined = uses[0].replace("(x)", f"({named[0].removeprefix('x = ')})")
    if len(inlined) > WIDTH:
        return lines
    return [inlined if line is uses[0] else line for line in lines if line is not named[0]]


def _loaded(scene: Scene, dialect: Dialect) -> list[str]:
    lines = []
    if scene.clause in POISONED:
        lines.append("# What was in the slots before, and in their padding, must not show.")
        for spec, former in zip(scene.case.adapters, poisoned(scene.case), strict=True):
            lines += dialect.load(scene, spec.slot, former)
    if scene.resets:
        return [*lines, *(f"lora.reset_lora({spec.slot})" for spec in scene.case.adapters)]
    if scene.clause in WARMED:
        return dialect.load_dummies(scene)
    for spec, adapter in zip(scene.case.adapters, scene.adapters, strict=True):
        lines += dialect.load(scene, spec.slot, adapter)
    return lines


def _extra_argument(case: Case) -> tuple[list[str], str]:
    """Lines that name the argument of an extra-argument forward where a call has no place for it, and the argument."""
    gate = gate_of(case)
    if gate is None:
        return [], ""
    given = f", torch.tensor({one_line(gate)})"
    return ([], given) if len(given) <= _INLINE else ([f"gate = {tensor_text(gate)}"], ", gate")


def _forward(scene: Scene, dialect: Dialect) -> list[str]:
    case = scene.case
    slots = scene.slots[::-1] if scene.reversed else scene.slots
    lines = dialect.select(scene, slots)
    lines += _input(scene, dialect)
    named, extra = _extra_argument(case)
    lines += named
    if scene.clause == "MATH-13":
        lines.append(f"lora(x{extra})  # the same call before")
    if scene.clause in DEQUANTIZING:
        return [*lines, *_dequantized(scene)]
    forward, paths = f"lora(x{extra})", scene.paths
    if scene.clause in SIBLING:
        forward, paths = "torch.nn.functional.linear(x, lora.weight)", ("result",)
        lines.append("# a fused path that goes around lora's forward")
    if not scene.compares:
        return [*lines, forward]
    if scene.counts_tensors:
        return [*lines, f"outputs = [one.tolist() for one in tensors({forward})]"]
    if len(paths) > 1:
        lines.append(f"result = {forward}")
    else:
        paths = tuple(path.replace("result", forward, 1) for path in paths)
    if scene.clause in TRANSPARENT and scene.anomaly == "hidden-attribute":
        lines.append("reached = {name: getattr(lora, name) for name in known}")
        lines.append("assert reached == known")
    if scene.clause == "MATH-7" and scene.anomaly == "input-written":
        return [*lines, "outputs = x.tolist()"]
    whole = ".flatten(0, -2)" if case.layout in (Layout.THREE_D, Layout.FOUR_D) else ""
    values = [f"{path}{whole}.tolist()" for path in paths]
    return [*lines, f"outputs = {values[0] if len(values) == 1 else '[' + ', '.join(values) + ']'}"]


def _dequantized(scene: Scene) -> list[str]:
    """A product with the weight as a path beside the layer dequantizes it, in the clause's two ways; or a report."""
    case = scene.case
    whole = ".flatten(0, -2)" if case.layout in (Layout.THREE_D, Layout.FOUR_D) else ""
    if case.quantization in SCALED_BY_ROW and case.seed % 2:
        product = [
            "product = torch.nn.functional.linear(x, lora.weight.to(x.dtype))",
            f"outputs = (product * lora.weight_scale.flatten().to(x.dtype)){whole}.tolist()",
        ]
    else:
        name, sizes = quant_method(case)
        product = [
            f"weight = {name}({', '.join(map(repr, sizes))}).dequantize(lora)",
            f"outputs = torch.nn.functional.linear(x, weight){whole}.tolist()",
        ]
    reported = "return None" if case.tp_size > 1 else "return"
    return [
        "try:  # a fused path that dequantizes the weight itself, around lora's forward",
        *indented(product),
        "except LoRAError:  # which is reported, and that is as good",
        f"    {reported}",
    ]


def _input(scene: Scene, dialect: Dialect) -> list[str]:
    """``x``, in the layout of the case."""
    case = scene.case
    tensors = [tensor.flip(0) if scene.reversed else tensor for tensor in scene.inputs]
    if scene.same_input:
        lines = [f"x = {tensor_text(tensors[0])}"]
    else:
        lines = [
            f"inputs = {rows([tensor.tolist() for tensor in tensors])}  # of each rank",
            "x = torch.tensor(inputs[rank])",
        ]
    tokens = len(case.tokens)
    changed = {
        Layout.THREE_D: f".view({2 if tokens and tokens % 2 == 0 else 1}, -1, x.shape[-1])" if tokens else "[None]",
        Layout.FOUR_D: "[None, :, None]",
        Layout.STRIDED: ".repeat_interleave(2, dim=0)[::2]",
        Layout.TRANSPOSED: ".t().contiguous().t()",
    }.get(case.layout)
    return [*lines, f"x = x{changed}"] if changed else lines


def expected_outputs(scene: Scene) -> object:
    """What ``outputs`` must be on every rank, as nested lists."""
    if scene.clause == "MATH-7" and scene.anomaly == "input-written":
        return [tensor.tolist() for tensor in scene.inputs]
    if scene.unwraps:
        return None
    ranks: list[object] = []
    for values in scene.expected:
        lists = [(value.flip(0) if scene.reversed and value.dim() > 1 else value).tolist() for value in values]
        ranks.append(lists[0] if len(lists) == 1 and not scene.counts_tensors else lists)
    return ranks
