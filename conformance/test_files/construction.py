"""The lines that make a layer in a regression file: its class, constructor, weights, and the modules around it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from inspect import getsource

from torch import Tensor

from conformance.implementations.schemes import METHODS
from conformance.subjects.building import WRAPPERS, shard_id_of
from conformance.test_files.literals import INDENT, Expression, call, one_line, rows, tensor_text
from strategies.cases import Case, LayerSpec, Quantization, WrapperKind
from strategies.constructors import constructor_arguments, positional_names
from strategies.libraries import BASE_CLASSES, Library
from strategies.source import CLASS_NAME, render

DECLARED = ("layer: Any", "layer")  # said to be anything where it is made first, and made again without a word


def class_name(case: Case) -> str:
    """What the file calls the class of the layer."""
    return CLASS_NAME if case.subclass.depth else BASE_CLASSES[case.layer.family]


def class_source(case: Case, library: Library, number: str = "") -> tuple[set[str], str]:
    """Import lines, and the rendered class, with ``number`` after its name, if it is no base class."""
    lines = render(case.layer, case.subclass, library).replace(CLASS_NAME, CLASS_NAME + number).splitlines()
    imports = {line for line in lines if re.match(r"(from|import) ", line)}
    if case.subclass.depth == 0:
        return imports, ""
    return imports, "\n".join(line for line in lines if line not in imports).strip("\n")


def wrapper_sources(kinds: Collection[WrapperKind]) -> list[str]:
    """The classes of wrappers of these kinds, and the one that they derive from."""
    used = {WRAPPERS[kind] for kind in (*kinds, WrapperKind.BARE)} if kinds else set()
    return [getsource(wrapper).strip() for wrapper in WRAPPERS.values() if wrapper in used]


def nested_text(kinds: Sequence[WrapperKind], inner: str) -> str:
    """``inner`` in wrappers of these kinds, outermost first."""
    for kind in reversed(kinds):
        inner = f"{WRAPPERS[kind].__name__}({inner})"
    return inner


def _told(case: Case) -> dict[str, object]:
    """The constructor's arguments that say more than its defaults."""
    arguments = constructor_arguments(case.layer, case.subclass)
    plain = LayerSpec()
    told = {name: value for name, value in arguments.items() if name == "bias" or value != getattr(plain, name, ...)}
    told |= {name: arguments[name] for name in positional_names(case.layer.family) if name in arguments}
    ordered = {name: told[name] for name in arguments if name in told}
    if case.quantization is not Quantization.NONE:
        name, sizes = quant_method(case)
        given = f"partial({', '.join([name, *map(repr, sizes)])})" if sizes else name
        ordered["quant_config"] = Expression(f"QuantConfig({given})")
    return ordered


def quant_method(case: Case) -> tuple[str, tuple[object, ...]]:
    """The class of the quant method of a case that has one, and the sizes it is made with."""
    method = METHODS[case.quantization]
    return (method.func.__name__, method.args) if isinstance(method, partial) else (method.__name__, ())


def fresh(case: Case, declared: str) -> str:
    """``layer``, a base class built alone and not loaded."""
    return call(f"{declared} = {class_name(case)}", _told(case))


def built(
    case: Case,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    context: str | None,
    named: str,
    declared: str = DECLARED[0],
) -> list[str]:
    """``layer``, of the class ``named``, built in ``context`` and loaded."""
    told = _told(case)
    made = call(f"{declared} = {named}", told)
    lines = [made] if context is None else [f"with {context}:", INDENT + made]
    for name, tensors in (("weight", weights), ("bias", biases)):
        shards = [shard_id_of(case, index) for index in range(len(tensors))]
        if len(tensors) == 1:
            given = [f"layer.{name}", tensor_text(tensors[0]), *map(one_line, shards[0])]
            lines.append(call(f"layer.{name}.weight_loader", given))
        elif tensors:
            parts = "qkv" if shards[0] == ("q",) else [shard for (shard,) in shards]
            names = one_line(parts) if isinstance(parts, str) else f"range({len(parts)})"
            texts = [tensor_text(tensor) for tensor in tensors]
            literal = all(text.startswith("torch.tensor(") for text in texts)
            told_rows = rows([tensor.tolist() for tensor in tensors]) if literal else f"[{', '.join(texts)}]"
            lines.append(f"{name}_rows = {told_rows}")
            part = f"torch.tensor({name}_part)" if literal else f"{name}_part"
            lines.append(f"for shard, {name}_part in zip({names}, {name}_rows, strict=True):")
            lines.append(f"    layer.{name}.weight_loader(layer.{name}, {part}, shard)")
    return [*lines, "layer.quant_method.process_weights_after_loading(layer)"]
