"""Tests of target modules (TARGET-1, TARGET-2, WRAP-6): which modules of a tree a deployment replaces."""

from __future__ import annotations

from inspect import getsource

from conformance.oracles.targets import culprits_of, layers_of
from conformance.regressions.entries import StoredFailure
from conformance.subjects.trees import OTHERS, Lookalike
from conformance.test_files.construction import DECLARED, class_source, fresh
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import INDENT, one_line
from conformance.test_files.script import Script, names_one_of, raises
from strategies.cases import Case
from strategies.target_questions import TargetQuestion
from strategies.trees import ModuleKind, ModuleSpec

_HANG = """
def hang(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    *above, last = name.split(".")
    for part in above:
        if not hasattr(model, part):
            model.add_module(part, torch.nn.Module())
        model = model.get_submodule(part)
    model.add_module(last, module)
""".strip("\n")
_BASE_LAYERS = (ModuleKind.LINEAR, ModuleKind.HOLLOW)


def script_of(failure: StoredFailure, question: TargetQuestion, dialect: Dialect) -> Script:
    """The tree as the first of its ranks sees it: which modules are replaced takes no other rank.

    Raises:
        CannotWrite: the question has no such form.
    """
    model = question.model
    if any(module.subclass.depth for module in model.linears):
        raise CannotWrite("its layers are of rendered classes; replay the case")
    packed = {name: list(children) for name, children in model.packing.items()}
    classes = [
        class_source(_case(module), dialect.library)[0] for module in model.modules if module.kind in _BASE_LAYERS
    ]
    looks_alike = any(one.kind is ModuleKind.LOOKALIKE for one in model.modules)
    return Script(
        lines=[*_tree(question, dialect), *_wrapped(failure, question, dialect)],
        definitions=[
            f"PACKED = {one_line(packed)}" if packed else "",
            *dialect.model_class(packed),
            *([getsource(Lookalike).strip()] if looks_alike else []),
            _HANG,
        ],
        imports=set().union(*classes),
        world=model.tp_size,
    )


def _case(module: ModuleSpec) -> Case:
    return Case(layer=module.layer, packed=module.packed)


def _tree(question: TargetQuestion, dialect: Dialect) -> list[str]:
    """``model``, module by module."""
    is_vllm, size = dialect.impl == "vllm", question.model.tp_size
    apart = size > 1 and not is_vllm
    lines = [f"model: Any = {dialect.model}"]
    lines += [f"first: Any = SimpleNamespace(rank=0, size={size})  # of the ranks"] if apart else []
    for index, module in enumerate(question.model.modules):
        made = [f"{DECLARED[index > 0]} = {OTHERS.get(module.kind)}"]
        if module.kind in _BASE_LAYERS:
            built = fresh(_case(module), DECLARED[index > 0])
            made = ["with tensor_parallel(first):", INDENT + built] if apart else [built]
            made += ["layer.quant_method.process_weights_after_loading(layer)"] if is_vllm else []
        if module.kind is ModuleKind.HOLLOW:
            made.append("layer.weight = layer.quant_method = None")
        lines += [*made, *(f'hang(model, "{name}", layer)' for name in module.names)]
    return lines


def _wrapped(failure: StoredFailure, question: TargetQuestion, dialect: Dialect) -> list[str]:
    """The manager made, and what must come of it."""
    targets = None if question.targets is None else list(question.targets)
    config, make = dialect.targeting(one_line(targets), question.model.packing)
    if failure.clause == "WRAP-6" and targets is not None:
        return [config, *_refused(question, make)]
    if failure.clause == "WRAP-6":
        others = [one.name for one in question.model.modules if one.kind is not ModuleKind.LINEAR]
        kept = [f"others = {one_line(others)}", "before = [model.get_submodule(name) for name in others]"]
        return [*kept, config, make, "assert [model.get_submodule(name) for name in others] == before"]
    names = [module.name for module in question.model.linears]
    found = f"lora = [n for n in names if isinstance(model.get_submodule(n), {dialect.wrapped})]"
    return [config, make, f"names = {one_line(names)}", found, f"assert lora == {one_line(layers_of(question))}"]


def _refused(question: TargetQuestion, make: str) -> list[str]:
    return [
        *raises(make),
        "assert not isinstance(caught.value, (AssertionError, AttributeError))",
        "said = str(caught.value)",
        *names_one_of("name", [one.name for one in culprits_of(question)]),
        *names_one_of("target", question.targets or ()),
    ]
