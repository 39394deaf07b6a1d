"""The body of a regression file: the statements that build, wrap, load, run and compare."""

from __future__ import annotations

from conformance.building import shard_id_of
from conformance.regressions.dialects import Dialect, tensor_text
from conformance.regressions.literals import INDENT, call, one_line, spread
from conformance.regressions.scenes import (
    POISONED,
    SIBLING,
    TRANSPARENT,
    TWICE_WRAPPED,
    Scene,
    gate_of,
)
from conformance.values import poisoned
from strategies.cases import Dtype, LayerSpec, Layout, WrapperKind
from strategies.source import BASE_CLASSES, CLASS_NAME, constructor_arguments, positional_names

_READ_BY_KERNELS = ("quant_method", "input_size", "output_size", "tp_size", "tp_rank", "output_partition_sizes")

_WRAPPER_NAMES = {
    WrapperKind.BARE: "BareWrapper",
    WrapperKind.NONE: "NoneWrapper",
    WrapperKind.FORWARDING: "ForwardingWrapper",
}
_WRAPPERS = {
    "BareWrapper": """
class BareWrapper(torch.nn.Module):
    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
""",
    "NoneWrapper": """
class NoneWrapper(BareWrapper):
    quant_method = None
""",
    "ForwardingWrapper": """
class ForwardingWrapper(BareWrapper):
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)
""",
}


def class_name(scene: Scene) -> str:
    """What the file calls the class of the layer."""
    return CLASS_NAME if scene.case.subclass.depth else BASE_CLASSES[scene.case.layer.family]


def wrapper_classes(scene: Scene) -> list[str]:
    """The classes of the wrappers that the case is nested in."""
    used = {_WRAPPER_NAMES[kind] for kind in scene.case.nesting} if scene.unwraps else set()
    return [text.strip("\n") for name, text in _WRAPPERS.items() if name in used or (used and name == "BareWrapper")]


TENSORS = """
def tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, tuple):
        return [one for item in result for one in tensors(item)]
    return [] if result is None else [result]
""".strip("\n")


def statements(scene: Scene, dialect: Dialect) -> list[str]:
    """What every rank does, from the class to ``outputs``, without indentation."""
    lines = _built(scene, dialect.context if scene.case.tp_size > 1 else None)
    if scene.asks_claimants:
        return [*lines, *dialect.claimants(scene)]
    if scene.clause in TRANSPARENT and scene.anomaly == "hidden-attribute":
        lines += spread("names = ", list(_READ_BY_KERNELS))
        lines.append("known = {name: getattr(layer, name) for name in names if hasattr(layer, name)}")
    lines += dialect.wrap(scene)
    if scene.only_wraps:
        return lines
    if scene.unwraps:
        return [*lines, *_nested(scene), f"outputs = {dialect.dense_weight()}.tolist()"]
    if scene.clause in TWICE_WRAPPED:
        again = dialect.wrap(scene)[-1].replace("(layer", "(lora")
        lines.append(again)
    return [*lines, *_loaded(scene, dialect), *_forward(scene, dialect)]


def _built(scene: Scene, context: str | None) -> list[str]:
    case = scene.case
    arguments = constructor_arguments(case.layer, case.subclass)
    plain = LayerSpec()
    told = {name: value for name, value in arguments.items() if name == "bias" or value != getattr(plain, name, ...)}
    told |= {name: arguments[name] for name in positional_names(case.layer.family) if name in arguments}
    told = {name: told[name] for name in arguments if name in told}
    if context is None:
        lines = call(f"layer = {class_name(scene)}(", told)
    else:
        lines = [f"with {context}:", *call(f"layer = {class_name(scene)}(", told, depth=1)]
    for name, tensors in (("weight", scene.weights), ("bias", scene.biases)):
        shards = [shard_id_of(case, index) for index in range(len(tensors))]
        if len(tensors) == 1:
            given = [f"layer.{name}", tensor_text(tensors[0]), *map(one_line, shards[0])]
            lines += call(f"layer.{name}.weight_loader(", given)
        elif tensors:
            parts = "qkv" if shards[0] == ("q",) else [shard for (shard,) in shards]
            names = one_line(parts) if isinstance(parts, str) else f"range({len(parts)})"
            lines += spread("rows = ", [tensor.tolist() for tensor in tensors])
            lines.append(f"for shard, part in zip({names}, rows, strict=True):")
            lines.append(f"    layer.{name}.weight_loader(layer.{name}, torch.tensor(part), shard)")
    return [*lines, "layer.quant_method.process_weights_after_loading(layer)"]


def _nested(scene: Scene) -> list[str]:
    outer = "lora"
    for kind in reversed(scene.case.nesting):
        outer = f"{_WRAPPER_NAMES[kind]}({outer})"
    return [f"outer = {outer}"]


def _loaded(scene: Scene, dialect: Dialect) -> list[str]:
    lines = []
    if scene.clause in POISONED:
        lines.append("# What was in the slots before, and in their padding, must not show.")
        for spec, former in zip(scene.case.adapters, poisoned(scene.case), strict=True):
            lines += dialect.load(scene, spec.slot, former)
    for spec, adapter in zip(scene.case.adapters, scene.adapters, strict=True):
        lines += dialect.load(scene, spec.slot, adapter)
    return lines


def _forward(scene: Scene, dialect: Dialect) -> list[str]:
    case = scene.case
    slots = scene.slots[::-1] if scene.reversed else scene.slots
    lines = dialect.select(scene, slots)
    lines += _input(scene, dialect)
    gate = gate_of(case)
    extra = "" if gate is None else f", torch.tensor({one_line(gate)})"
    if scene.clause == "MATH-13":
        lines.append(f"lora(x{extra})  # the same call before")
    if scene.clause in SIBLING:
        forward, paths = "torch.nn.functional.linear(x, lora.weight)", ("result",)
        lines.append("# a fused path that goes around lora's forward")
    else:
        forward, paths = f"lora(x{extra})", scene.paths
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


def _input(scene: Scene, dialect: Dialect) -> list[str]:
    """``x``, in the layout of the case."""
    case = scene.case
    tensors = [tensor.flip(0) if scene.reversed else tensor for tensor in scene.inputs]
    if scene.same_input:
        lines = call("x = ", [tensor_text(tensors[0])], "")
    else:
        lines = [
            *spread("inputs = ", [tensor.tolist() for tensor in tensors], "  # of each rank"),
            f"x = torch.tensor(inputs[RANKS.{dialect.rank}])",
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


def default_dtype(scene: Scene) -> list[str]:
    """A fixture that sets torch's default dtype, where the case has another."""
    if scene.case.dtype is Dtype.FLOAT32:
        return []
    return [
        "",
        "",
        "@pytest.fixture(autouse=True)",
        "def narrow() -> Iterator[None]:",
        f"{INDENT}torch.set_default_dtype(torch.{scene.case.dtype.value})",
        f"{INDENT}yield",
        f"{INDENT}torch.set_default_dtype(torch.float32)",
    ]
