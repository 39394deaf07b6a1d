"""Regression files of target modules: a tree, what the deployment names, and which of its modules are replaced."""

from __future__ import annotations

from conformance.regressions.entries import StoredFailure
from conformance.test_files.construction import DECLARED, class_source, fresh
from conformance.test_files.dialects import CannotWrite, Dialect
from conformance.test_files.imports import whole_file
from conformance.test_files.literals import call, indented, names_one_of, one_line, spread
from conformance.test_files.manager_words import vllm_model
from conformance.test_files.margins import INDENT
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
_LOOKALIKE = '''
class Lookalike(torch.nn.Module):
    """Has the attributes of a linear layer, and derives from none."""

    input_size, output_size, tp_rank, tp_size = 3, 3, 0, 1
    weight = torch.ones(3, 3)
'''.strip("\n")
_OTHERS = {
    ModuleKind.NN_LINEAR: "torch.nn.Linear(3, 3)",
    ModuleKind.EMBEDDING: "torch.nn.Embedding(3, 3)",
    ModuleKind.NORM: "torch.nn.LayerNorm(3)",
    ModuleKind.LOOKALIKE: "Lookalike()",
    ModuleKind.HOLDER: "torch.nn.Sequential(torch.nn.LayerNorm(3))",
}
_BASE_LAYERS = (ModuleKind.LINEAR, ModuleKind.HOLLOW)


def write(failure: StoredFailure, question: TargetQuestion, dialect: Dialect, told: str) -> str:
    """The file.

    Raises:
        CannotWrite: the question has no such form.
    """
    model = question.model
    if any(module.subclass.depth for module in model.linears):
        raise CannotWrite("its layers are of rendered classes; replay the case")
    is_vllm = dialect.impl == "vllm"
    packed = {name: list(children) for name, children in model.packing.items()}
    lines = _tree(question, dialect)
    lines += _wrapped(failure, question, is_vllm)
    parts = ["\n".join(spread("PACKED = ", packed))] if packed else []
    parts += [vllm_model("PACKED" if packed else "{}")] if is_vllm else []
    parts += [_LOOKALIKE] if any(one.kind is ModuleKind.LOOKALIKE for one in model.modules) else []
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    test = [f"def {name}({'monkeypatch: pytest.MonkeyPatch' if is_vllm else ''}) -> None:"]
    if is_vllm:
        test.append(f"{INDENT}alone = SimpleNamespace(world_size={model.tp_size}, rank_in_group=0)")
        test.append(f'{INDENT}monkeypatch.setattr(parallel_state, "_TP", alone)')
    text = "\n\n\n".join([*parts, _HANG, "\n".join([*test, *indented(lines)])])
    return whole_file(told, _imports(question, dialect, text), text)


def _imports(question: TargetQuestion, dialect: Dialect, text: str) -> set[str]:
    lines: set[str] = set()
    for module in question.model.modules:
        lines |= class_source(_case(module), dialect.library)[0] if module.kind in _BASE_LAYERS else set()
    if dialect.impl == "vllm":
        return lines | {
            "from vllm.config import VllmConfig",
            "from vllm.config.lora import LoRAConfig",
            "from vllm.distributed import parallel_state",
            "from vllm.lora.model_manager import LoRAModelManager",
            *(["from vllm.lora.layers import BaseLayerWithLoRA"] if "BaseLayerWithLoRA" in text else []),
        }
    names = [
        name
        for name in ("LoRAConfig", "LoRALinear", "LoRAManager", "PackedModules", "tensor_parallel")
        if name in text
    ]
    return lines | {f"from lora_compat import {', '.join(names)}"}


def _case(module: ModuleSpec) -> Case:
    return Case(layer=module.layer, packed=module.packed)


def _tree(question: TargetQuestion, dialect: Dialect) -> list[str]:
    """``model``, as the first of its ranks sees it; which modules are replaced takes no other rank."""
    is_vllm, size = dialect.impl == "vllm", question.model.tp_size
    lines = [f"model: Any = {'Model()' if is_vllm else 'torch.nn.Module()'}"]
    if size > 1 and not is_vllm:
        lines.append(f"first: Any = SimpleNamespace(rank=0, size={size})  # of the ranks")
    for index, module in enumerate(question.model.modules):
        made = [f"{DECLARED[index > 0]} = {_OTHERS.get(module.kind)}"]
        if module.kind in _BASE_LAYERS:
            apart = size > 1 and not is_vllm
            made = ["with tensor_parallel(first):"] if apart else []
            made += fresh(_case(module), DECLARED[index > 0], depth=int(apart))
            made += ["layer.quant_method.process_weights_after_loading(layer)"] if is_vllm else []
        if module.kind is ModuleKind.HOLLOW:
            made.append("layer.weight = layer.quant_method = None")
        lines += [*made, *(f'hang(model, "{name}", layer)' for name in module.names)]
    return lines


def _wrapped(failure: StoredFailure, question: TargetQuestion, is_vllm: bool) -> list[str]:
    """The manager made, and what must come of it."""
    targets = None if question.targets is None else list(question.targets)
    refused = failure.clause == "WRAP-6" and targets is not None
    if is_vllm:
        config = ["max_loras=1", "max_lora_rank=8", "lora_dtype=torch.float32", f"target_modules={one_line(targets)}"]
        given = ["model", "8", "8", "32", "config", 'torch.device("cpu")', "VllmConfig()"]
        make = call("LoRAModelManager(", given, depth=int(refused))
    else:
        config = ["max_loras=1", "max_lora_rank=8"]
        given = ["model", "config", f"target_modules={one_line(targets)}"]
        given += ["packed_modules=PackedModules(PACKED)"] if question.model.packing else []
        make = call("LoRAManager(", given, depth=int(refused))
    lines = call("config = LoRAConfig(", config)
    if refused:
        return [*lines, *_refused(question, make)]
    if failure.clause == "WRAP-6":
        others = [one.name for one in question.model.modules if one.kind is not ModuleKind.LINEAR]
        kept = [*spread("others = ", others), "before = [model.get_submodule(name) for name in others]"]
        return [*kept, *lines, *make, "assert [model.get_submodule(name) for name in others] == before"]
    names = [module.name for module in question.model.linears]
    right = [name for name, module in zip(names, question.model.linears, strict=True) if _named(question, module)]
    kind = "BaseLayerWithLoRA" if is_vllm else "LoRALinear"
    found = [f"lora = [n for n in names if isinstance(model.get_submodule(n), {kind})]"]
    return [*lines, *make, *spread("names = ", names), *found, *spread("assert lora == ", right)]


def _named(question: TargetQuestion, module: ModuleSpec) -> bool:
    """The contract's rule, as `conformance.test_targets` has it."""
    packing = question.model.packing
    if question.targets is None:
        return True
    return any(
        target in (name, last) or target in packing.get(last, ()) or last in packing.get(target, ())
        for target in question.targets
        for name in module.names
        for last in [name.rpartition(".")[2]]
    )


def _refused(question: TargetQuestion, make: list[str]) -> list[str]:
    packing = question.model.packing
    culprits = [
        module.name
        for module in question.model.modules
        if module.kind not in (ModuleKind.LINEAR, ModuleKind.HOLDER)
        and any(
            target in (module.name, module.name.rpartition(".")[2]) or target in packing.get(module.name, ())
            for target in question.targets or ()
        )
    ]
    return [
        "with pytest.raises(Exception) as caught:",
        *make,
        "assert not isinstance(caught.value, (AssertionError, AttributeError))",
        "said = str(caught.value)",
        *names_one_of("name", culprits),
        *names_one_of("target", question.targets or ()),
    ]
