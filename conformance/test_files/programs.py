"""Tests of programs: a model, its adapters, and a list of calls, the last of which must come out right."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.judging.anomalies.partial_sums import sums_partials
from conformance.regressions.entries import StoredFailure
from conformance.subjects.adapter_files import peft_config
from conformance.test_files.construction import DECLARED, built, class_name, class_source
from conformance.test_files.dialects import Dialect
from conformance.test_files.endings import Ending
from conformance.test_files.literals import one_line, tensor_text
from conformance.test_files.plays import ADDS, Play, play_of
from conformance.test_files.scenes import layer_reduces
from conformance.test_files.script import Script, compared
from strategies.programs import Program

_SAVED = """
def adapter(number: int) -> {cls}:  # saved as PEFT does{loaded}
    tensors = {{}}
    for name, (a, b) in ADAPTERS[number].items():
        tensors[f"base_model.model.{{name}}.lora_A.weight"] = a
        tensors[f"base_model.model.{{name}}.lora_B.weight"] = b
    with TemporaryDirectory() as folder:
        save_file(tensors, f"{{folder}}/adapter_model.safetensors")
        Path(folder, "adapter_config.json").write_text(json.dumps(CONFIGS[number]))
{loading}
""".strip("\n")


def script_of(failure: StoredFailure, program: Program, dialect: Dialect) -> Script:
    """The program up to the call that failed.

    Raises:
        CannotWrite: the program has no such form.
    """
    play = play_of(failure.clause, failure.anomaly, failure.sighting.place, program)
    imports, classes, names = _classes(play, dialect)
    ending = Ending(play, dialect)
    calls, ranks = ending.lines(), program.model.tp_size
    managed = dialect.manager(play, named=any("manager." in line for line in calls))
    summed = ending.compares and sums_partials(play.case)
    adapter = _SAVED.format(**dialect.saved) if program.from_disk else dialect.adapter.format(rank=program.max_rank)
    made = [*dialect.model_class(play.packing()), *([adapter] if play.adds else [])]
    return Script(
        lines=[*_model(play, dialect, names), *managed, *calls],
        returns="outputs" if ending.compares else "",
        verdict=compared(play.expected(), ranks, summed=summed) if ending.compares else [],
        definitions=[_constants(play), *classes, *made],
        imports=imports,
        ranks=ranks,
        reduces=any(layer_reduces(case) for case in play.values.cases),
        in_turn=dialect.impl == "vllm" and ranks > 1 and not _communicates(play),
    )


def _communicates(play: Play) -> bool:
    """Whether ranks may wait for each other; where not, they can run in turn."""
    gathers = any(layer_reduces(case) or case.layer.gather_output for case in play.values.cases)
    return gathers or play.program.fully_sharded or play.anomaly == "raised"


def _constants(play: Play) -> str:
    lines = [f"PACKED = {one_line({**play.packing()})}"] if play.packing() else []
    added = sorted({turn.call.number for turn in play.turns if turn.call.method in ADDS})
    if added:
        from_disk = play.program.from_disk
        told = "LoRA A and LoRA B" if from_disk else "LoRA A, LoRA B and scaling"
        lines.append(f"ADAPTERS = {{  # by id: {told} of each module")
        for number in added:
            modules = []
            for name, part in play.adapter(number).items():
                given = [tensor_text(part.lora_a), tensor_text(part.lora_b)]
                given += [] if from_disk else [repr(part.scaling)]
                modules.append(f'"{name}": ({", ".join(given)})')
            lines.append(f"    {number + 1}: {{{', '.join(modules)}}},")
        lines.append("}")
        lines += [f"CONFIGS: dict[int, dict[str, Any]] = {one_line(_configs(play, added))}"] if from_disk else []
    return "\n".join(lines)


def _configs(play: Play, added: Sequence[int]) -> dict[int, object]:
    """What each adapter's ``adapter_config.json`` says, without what is as it is by default."""
    names, told = play.checkpoint_names(), {}
    for number in added:
        config = peft_config({names[name]: part for name, part in play.values.parts(number).items()})
        told[number + 1] = {key: value for key, value in config.items() if value}
    return {**told}


def _classes(play: Play, dialect: Dialect) -> tuple[set[str], list[str], list[str]]:
    """Import lines, rendered classes, and the class name of each layer."""
    imports: set[str] = set()
    numbers: dict[str, str] = {"": ""}  # of each class, by its source, "" for the first
    sources: list[str] = []
    names = []
    for case in play.values.cases:
        of_class, source = class_source(case, dialect.library)
        imports |= of_class
        if source not in numbers:
            numbers[source] = str(len(sources) + 1) if sources else ""
            sources.append(class_source(case, dialect.library, numbers[source])[1])
        names.append(class_name(case) + numbers[source])
    return imports, sources, names


def _model(play: Play, dialect: Dialect, names: Sequence[str]) -> list[str]:
    """``model``, with its layers under their names in the order of a walk."""
    lines, made = [f"model: Any = {dialect.model}"], set()
    context = dialect.context if play.program.model.tp_size > 1 else None
    short = play.names()
    layers = zip(play.values.cases, play.values.tensors, play.program.model.linears, names, strict=True)
    for index, (case, tensors, module, named) in enumerate(layers):
        lines += built(case, tensors.weights, tensors.biases, context, named, DECLARED[index > 0])
        for name in module.names:
            parts = short[name].split(".")
            for above in (".".join(parts[:count]) for count in range(1, len(parts))):
                lines += [f"model.{above} = torch.nn.Module()"] if above not in made else []
                made.add(above)
            lines.append(f"model.{short[name]} = layer")
    return lines
