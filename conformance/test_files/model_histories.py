"""Tests of what a model goes through besides one adapter: other writings, LoRA that is switched on, other adapters."""

from __future__ import annotations

from dataclasses import replace

from safetensors.torch import load_file

from conformance.implementations.models import OUTPUT
from conformance.judging.company import AFTER, AGAIN, BESIDE, INSTEAD
from conformance.judging.facts import Difference, Raised
from conformance.subjects.models.adapters import TENSORS
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.observing import chains
from conformance.subjects.models.writings import ON_DISK, PICKLED, Piece, pieces
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import indented
from conformance.test_files.model_chains import OPENED
from conformance.test_files.model_configs import constant
from conformance.test_files.model_scenes import BASE, COPIED, Told, added_or_refused, scripted, targets_of
from conformance.test_files.script import Script

_BARE = """
def bare(directory: str) -> Any:
    config = EngineArgs(directory, enforce_eager=True, dtype="{dtype}").create_engine_config()
    with set_current_vllm_config(config):
        return get_model(vllm_config=config)
""".strip("\n")
_OUTPUT = """
def read(layer: Any) -> list[list[float]]:
    output = layer(torch.eye(layer.input_size))
    return (output[0] if isinstance(output, tuple) else output).tolist()
""".strip("\n")
_PICKLING = ['torch.save(tensors, str(file).replace(".safetensors", ".bin"))', "Path(file).unlink()"]
_READ = """
def read(worker: Any, layer: Any, *numbers: int) -> list[list[float]]:
    ids = (numbers * layer.input_size)[: layer.input_size]
    worker.set_active_adapters(set(), LoRAMapping(ids, ids, is_prefill=False))
    output = layer(torch.eye(layer.input_size))
    return (output[0] if isinstance(output, tuple) else output).tolist()
""".strip("\n")
_ONE, _TWO = (f'worker.add_adapter(LoRARequest("{name}", {number}, ' for name, number in (("one", 1), ("two", 2)))
_ADAPTER, _OTHER = 'f"{folder}/adapter"))', 'f"{folder}/other"))'
_IN_PLACE = 'worker.add_adapter(LoRARequest("one", 1, f"{folder}/other", load_inplace=True))'
_BACK = ["first = read(worker, layer, 1)", _TWO + _OTHER]
_SHOWN = {
    BESIDE: [
        *(_ONE + _ADAPTER, *_BACK),
        "second, base = (read(worker, layer, number) for number in (2, 0))",
        "turns = list(zip(first, second, base, second, strict=True))",
        "right = [row[number % 4] for number, row in enumerate(turns)]",
        "assert read(worker, layer, 1, 2, 0, 2) == right  # a batch of both and of none",
    ],
    AFTER: [_ONE + _ADAPTER, *_BACK, _ONE + _ADAPTER, "assert read(worker, layer, 1) == first  # back again"],
    INSTEAD: [
        *(_ONE + _ADAPTER, _TWO + _OTHER, "second = read(worker, layer, 2)", _IN_PLACE),
        "assert read(worker, layer, 1) == second",
    ],
    AGAIN: [
        *(_ONE + _ADAPTER, *_BACK, _IN_PLACE, "worker.remove_adapter(1)", _ONE + _ADAPTER),
        "assert read(worker, layer, 1) == first  # loaded again",
    ],
}


def written(told: Told) -> Script:
    """MODEL-3: the adapter, written in another way, gives the same or is refused by name."""
    ways = {f"written {name}": name for name in (ON_DISK, PICKLED)}
    way = ways.get(told.place.setting)
    if way is None:
        raise CannotWrite("it was stored by an older release, in words alone; replay it")
    names = targets_of(told.case.adapter)
    constants, rewriting = ([], _PICKLING) if way == PICKLED else _renaming(told, chains().of(told.case))
    plain = replace(told, fused=told.fused and way == PICKLED, exact=False)
    if isinstance(told.fact, Raised):
        lines = [*OPENED, *rewriting, BASE, *added_or_refused(plain, names)]
        return scripted(plain, lines, definitions=constants)
    if told.fused:
        raise CannotWrite("experts written in two ways have no form as a single file yet; replay the case")
    compared = [
        f'layer = model.get_submodule("{told.place.module}")',
        "slots = list(zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True))",
        "added = [torch.cat([b[at, 0] @ a[at, 0] for a, b in slots]) for at in (0, 1)]",
        "assert added[0].tolist() == added[1].tolist()",
    ]
    served = 'model, worker = served(f"{folder}/base")'
    lines = [*COPIED, *rewriting, served, _ONE + _ADAPTER, _TWO + _OTHER, *compared]
    return scripted(replace(plain, engine={"max_loras": 2}), lines, definitions=constants)


def _renaming(told: Told, chain: Chain) -> tuple[list[str], list[str]]:
    """Constants and statements that write the adapter under the names that its weights have in the checkpoint."""
    found = list(pieces(told.case, chain))
    if all(len(parts) == 1 and parts[0].expert is None for _, parts in found):
        names = {pair.module: parts[0].module for pair, parts in found}
        renamed = "{key.replace(old, new): one for key, one in tensors.items()}"
        loop = ["for old, new in RENAMED.items():", f"    tensors = {renamed}"]
        return [constant("RENAMED", names)], [*loop, "save_file(tensors, file)"]
    if len(found) > 1 or any(piece.expert is None for piece in found[0][1]):
        raise CannotWrite("experts beside others have no form as a single file yet; replay the case")
    ((pair, parts),) = found
    lines = [
        f'a, b = (tensors[f"{pair.key_a.replace("lora_A", "lora_{part}")}"] for part in "AB")',
        f"a, b = a.reshape({pair.delta.shape[0]}, -1, a.shape[-1]), b.reshape(len(b), -1, {pair.delta.shape[0]})",
        "tensors = {}  # PEFT stacks experts outside of ranks in A, and inside in B",
        f"for expert in range({pair.delta.shape[0]}):",
        *indented(
            [
                "for name, (start, end) in EXPERTS.items():",
                '    key = f"base_model.model.{name.format(expert)}.lora_"',
                '    tensors[key + "A.weight"] = a[expert].clone()',
                '    tensors[key + "B.weight"] = b[start:end, :, expert].clone()',
            ]
        ),
        "save_file(tensors, file)",
    ]
    rows = len(load_file(chain.adapter / TENSORS)[pair.key_b])
    return [constant("EXPERTS", _named(parts, rows))], lines


def _named(parts: list[Piece], rows: int) -> dict[str, list[int]]:
    """The names of one expert's parts, with its number left open, and the rows that each takes."""
    found = {}
    for one in parts:
        before, _, after = one.module.rpartition(".0.")
        if one.expert == 0:
            found[f"{before}.{{}}.{after}"] = [one.start, one.stop or rows]
    return found


def switched_on(told: Told) -> Script:
    """MODEL-4: a module of the model with LoRA and no adapter is what it is without LoRA."""
    fact = told.fact
    if not isinstance(fact, Difference) or told.case.tp_size > 1 or told.case.options:
        raise CannotWrite("LoRA that changes a model by itself has such a form on one rank only; replay the case")
    forward = fact.name == OUTPUT
    reading = _OUTPUT if forward else f"def read(layer: Any) -> Any:\n    return layer.{fact.name}.tolist()"
    module = "layer" if forward else 'getattr(layer, "base_layer", layer)'
    nobody = ["ids = (0,) * layer.input_size", "nobody = LoRAMapping(ids, ids, is_prefill=False)"] if forward else []
    serve = ["worker.set_active_adapters(set(), nobody)"] if forward else []
    lines = [
        f'name = "{told.place.module}"',
        'right = read(bare(f"{folder}/base").get_submodule(name))',
        'model, worker = served(f"{folder}/base")',
        "layer = model.get_submodule(name)",
        *nobody,
        *serve,
        f"assert read({module}) == right  # with LoRA, and no adapter",
        _ONE + _ADAPTER,
        "worker.remove_adapter(1)",
        *serve,
        f"assert read({module}) == right  # after an adapter came and went",
    ]
    definitions = [_BARE.format(dtype=told.case.dtype.of_tensors), reading]
    return scripted(replace(told, engine={"max_loras": 2}), lines, definitions=definitions)


def reloaded(told: Told) -> Script:
    """MODEL-5: loading leaves the directory as it was, and the slots whatever else is loaded."""
    served = 'model, worker = served(f"{folder}/base")'
    if told.anomaly == "file-changed":
        files = '{one.name: one.read_bytes() for one in Path(f"{folder}/adapter").iterdir()}'
        lines = [f"before = {files}", served.replace("model", "_"), _ONE + _ADAPTER, f"assert {files} == before"]
        return scripted(told, lines)
    if told.case.tp_size > 1 or told.fused or not isinstance(told.fact, Difference):
        raise CannotWrite("slots that change have a form as a single file on one rank only; replay the case")
    shown = _SHOWN.get(told.place.setting)
    if shown is None or told.fact.name != OUTPUT or told.case.options:
        raise CannotWrite("adapters in company have a form as a single file for linear layers; replay the case")
    name = f".{told.place.module.rpartition('.')[2]}."
    lost = chains().of(told.case).file.keys_by_module()[1::2] if told.place.setting == INSTEAD else []
    lacks = any(name in keys[0] for keys in lost)
    kept = " for key, one in tensors.items()" + (f' if "{name}" not in key' if lacks else "")
    lines = [
        *COPIED,
        f'save_file({{key: -one if "_B." in key else one{kept}}}, file)',
        served,
        f'layer = model.get_submodule("{told.place.module}")',
        *shown,
    ]
    slots = told.case.deployment.slots
    plain = replace(told, engine={"max_loras": slots}) if slots > 1 else told
    return scripted(plain, lines, definitions=[_READ])


def started(told: Told) -> Script:
    """MODEL-6: the engine's start, its warm-up included, raises nothing."""
    lines = [
        BASE,
        'dummy = LoRARequest("dummy", 9, "dummy")',
        "worker.add_dummy_lora(dummy, worker.get_dummy_lora_warmup_rank(8))",
        "worker.add_adapter(dummy)",
        "worker.remove_adapter(9)",
    ]
    return scripted(told, lines)
