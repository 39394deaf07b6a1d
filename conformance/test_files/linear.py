"""Tests of one linear layer: MATH-1 to MATH-13, MATH-17, WRAP, UNWRAP, COMM, and RANK-5 for a layer by itself."""

from __future__ import annotations

from conformance.regressions.entries import StoredFailure
from conformance.subjects.linear import deployment_of
from conformance.test_files.construction import (
    built,
    built_of_torch,
    class_name,
    class_source,
    nested_text,
    quant_method,
    wrapper_sources,
)
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import indented, one_line, tensor_text
from conformance.test_files.scenes import SIBLING, Scene, layer_reduces, scene_of
from conformance.test_files.script import Script, claimed, compared, handed, taken
from conformance.values.linear import poisoned
from strategies.cases import Case, Layout, Quantization
from strategies.libraries import Library
from strategies.quantization import SCALED_BY_ROW

CLAUSES = (
    *(f"MATH-{number}" for number in (*range(1, 14), 17)),
    *(f"WRAP-{number}" for number in (1, 2, 3, 4, 5, 7, 8)),
    *("UNWRAP-1", "UNWRAP-2", "UNWRAP-3", "COMM-1", "COMM-2", "RANK-5"),
)
_READ_BY_KERNELS = ("quant_method", "input_size", "output_size", "tp_size", "tp_rank", "output_partition_sizes")
_INLINE = 40  # characters of an argument that the longest call has place for
_TENSORS = """
def tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, tuple):
        return [one for item in result for one in tensors(item)]
    return [] if result is None else [result]
""".strip("\n")


def script_of(failure: StoredFailure, case: Case, dialect: Dialect) -> Script:
    """What the clause does with the layer.

    Raises:
        CannotWrite: the library has no such layer, or the clause no such form.
    """
    if failure.anomaly == "base-misquantized":
        raise CannotWrite("it is the base layer's kernel, without an adapter, that is wrong; replay the case")
    if failure.clause not in CLAUSES:
        raise CannotWrite(f"{failure.clause} has no form as a single file yet; replay the case")
    if dialect.impl == "vllm" and case.quantization is not Quantization.NONE:
        raise CannotWrite("the quantization of the base layer is this project's own")
    if failure.clause.startswith("COMM-") and case.tp_size == 1:
        raise CannotWrite("one rank by itself has no group that could be watched; replay the case")
    if case.subclass.target:
        raise CannotWrite("the class is an existing one, built by a recipe")
    scene = scene_of(failure.clause, failure.anomaly, case, failure.sighting.fact)
    imports, definition = class_source(case, dialect.library)
    wrappers = wrapper_sources(case.nesting) if scene.unwraps else []
    returns, verdict = _verdict(scene, dialect)
    return Script(
        lines=_lines(scene, dialect),
        returns=returns,
        verdict=verdict,
        definitions=[definition, dialect.around, *wrappers, *([_TENSORS] if scene.counts_tensors else [])],
        imports=imports,
        ranks=case.tp_size,
        reduces=layer_reduces(case),
        logs=not scene.compares,
        dtype=case.dtype.of_tensors,
    )


def _verdict(scene: Scene, dialect: Dialect) -> tuple[str, list[str]]:
    """What a rank hands back, and what must come of it."""
    ranks = scene.case.tp_size
    if scene.clause in ("WRAP-1", "WRAP-2"):
        return claimed(f"isinstance(lora, {dialect.wrapped})", True, ranks)
    if scene.clause == "WRAP-3":
        return claimed("len(claimants)", 1, ranks)
    if scene.unwraps:
        return claimed("outputs == layer.weight.tolist()", True, ranks)
    if scene.clause == "COMM-1":
        return "RANKS.log[rank]", ["assert outputs[1:] == outputs[:-1]"]
    if scene.clause == "COMM-2":
        return "RANKS.log[rank]", ["assert outputs[0] == []"]
    reported = [f"if outputs == [None] * {ranks}:  # all report it", "    return"]
    verdict = compared(scene.expected, ranks, bound=scene.bound, summed=scene.summed)
    return "outputs", [*(reported if scene.clause == "WRAP-8" and ranks > 1 else []), *verdict]


def _lines(scene: Scene, dialect: Dialect) -> list[str]:
    """What every rank does, from the class to ``outputs``."""
    case = scene.case
    context = dialect.context if case.tp_size > 1 else None
    deployment = dialect.settled(deployment_of(case), scene.clause, scene.slots)
    given = scene.tensors.weights, scene.tensors.biases
    of_torch = dialect.library is Library.TORCH
    lines = built_of_torch(case, *given) if of_torch else built(case, *given, context, class_name(case))
    if scene.clause == "WRAP-3":
        return [*lines, *dialect.claimants(deployment)]
    if scene.reads_attributes:
        lines.append(f"names = {one_line(list(_READ_BY_KERNELS))}")
        lines.append("known = {name: getattr(layer, name) for name in names if hasattr(layer, name)}")
    wrapping = dialect.wrap(deployment)
    lines += wrapping
    if scene.clause in ("WRAP-1", "WRAP-2"):
        return lines
    if scene.unwraps:
        outer = f"outer: Any = {nested_text(case.nesting, 'lora')}"
        return [*lines, outer, f"outputs = {dialect.dense_weight}.tolist()"]
    if scene.clause == "WRAP-5":
        lines.append(wrapping[-1].replace("(layer", "(lora").replace("lora: Any", "lora"))
    slots = [spec.slot for spec in case.adapters]
    if scene.clause == "RANK-5":
        shards = case.layer_tp_size if case.fully_sharded else 1
        lines += dialect.load_dummies(deployment, slots, shards)
    else:
        lines += _loaded(scene, dialect)
    return [*lines, *dialect.select(deployment, scene.slots), *_forward(scene)]


def _loaded(scene: Scene, dialect: Dialect) -> list[str]:
    slots = [spec.slot for spec in scene.case.adapters]
    lines = []
    if scene.clause == "MATH-5":
        lines.append("# What was in the slots before, and in their padding, must not show.")
        for slot, former in zip(slots, poisoned(scene.case), strict=True):
            lines += dialect.load(slot, former)
    if scene.resets:
        return [*lines, *(f"lora.reset_lora({slot})" for slot in slots)]
    for slot, adapter in zip(slots, scene.tensors.adapters, strict=True):
        lines += dialect.load(slot, adapter)
    return lines


def _forward(scene: Scene) -> list[str]:
    """From ``x`` to ``outputs``."""
    lines, extra = _input(scene), ""
    if scene.gate is not None:
        extra = f", torch.tensor({one_line(scene.gate)})"
        if len(extra) > _INLINE:
            lines.append(f"gate = {tensor_text(scene.gate)}")
            extra = ", gate"
    if scene.clause == "MATH-13":
        lines.append(f"lora(x{extra})  # the same call before")
    if scene.clause == "WRAP-8":
        return [*lines, *_dequantized(scene)]
    forward = f"lora(x{extra})"
    if scene.clause in SIBLING:
        forward = "torch.nn.functional.linear(x, lora.weight)"
        lines.append("# a fused path that goes around lora's forward")
    if not scene.compares:
        return [*lines, forward]
    if scene.counts_tensors:
        return [*lines, f"outputs = [one.tolist() for one in tensors({forward})]"]
    if scene.clause == "MATH-7" and scene.anomaly == "input-written":
        return [*lines, forward, f"outputs = x{_whole(scene.case)}.tolist()"]
    reached = []
    if scene.reads_attributes:
        reached = ["reached = {name: getattr(lora, name) for name in known}", "assert reached == known"]
    result, *outputs = taken(forward, scene.paths)
    return [*lines, *([result] if outputs else []), *reached, *(outputs or [result])]


def _whole(case: Case) -> str:
    return ".flatten(0, -2)" if case.layout in (Layout.THREE_D, Layout.FOUR_D) else ""


def _dequantized(scene: Scene) -> list[str]:
    """A product with the weight as a path beside the layer dequantizes it, in the clause's two ways; or a report."""
    case, whole = scene.case, _whole(scene.case)
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
    return [
        "try:  # a fused path that dequantizes the weight itself, around lora's forward",
        *indented(product),
        "except LoRAError:  # which is reported, and that is as good",
        "    return None" if case.tp_size > 1 else "    return",
    ]


def _input(scene: Scene) -> list[str]:
    """``x``, in the layout of the case."""
    tokens = len(scene.case.tokens)
    changed = {
        Layout.THREE_D: f".view({2 if tokens and tokens % 2 == 0 else 1}, -1, x.shape[-1])" if tokens else "[None]",
        Layout.FOUR_D: "[None, :, None]",
        Layout.STRIDED: ".repeat_interleave(2, dim=0)[::2]",
        Layout.TRANSPOSED: ".t().contiguous().t()",
    }.get(scene.case.layout)
    return [*handed(scene.inputs), *([f"x = x{changed}"] if changed else [])]
