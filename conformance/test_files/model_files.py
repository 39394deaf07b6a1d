"""Regression files of programs: a model, its adapters, and a list of calls, the last of which must come out right."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.regressions.entries import StoredFailure
from conformance.test_files.adapter_sources import configs
from conformance.test_files.construction import DECLARED, built, class_name, class_source
from conformance.test_files.dialects import CannotWrite, Dialect, layer_reduces
from conformance.test_files.endings import Ending
from conformance.test_files.imports import whole_file
from conformance.test_files.literals import call, indented, spread, tensor_text
from conformance.test_files.manager_words import LoraCompatManager, ManagerWords, VllmManager
from conformance.test_files.margins import INDENT, LONGEST
from conformance.test_files.plays import Play, play_of
from strategies.programs import Program

_WORDS: dict[str, ManagerWords] = {"reference": LoraCompatManager(), "vllm": VllmManager()}
_RANKS_OF_VLLM = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def write(failure: StoredFailure, program: Program, dialect: Dialect, told: str) -> str:
    """The file.

    Raises:
        CannotWrite: the program has no such form.
    """
    play, words = play_of(failure.clause, failure.anomaly, failure.sighting.place, program), _WORDS[dialect.impl]
    if program.model.tower and dialect.impl == "vllm":
        raise CannotWrite("a tower with a token map of its own, which this project's trees alone have")
    if dialect.impl == "vllm" and program.max_rank not in _RANKS_OF_VLLM:
        raise CannotWrite(f"vLLM's LoRAConfig takes no max_lora_rank of {program.max_rank}")
    imports, classes, names = _classes(play, dialect)
    ending = Ending(play, words)
    calls = ending.lines()
    made = words.made(play, named=any("manager." in line for line in calls))
    lines = [*_model(play, dialect, names), *made, *calls]
    parts = [*_constants(play), *classes, *words.definitions(play)]
    parts += _functions(play, dialect, lines, ending)
    text = "\n\n\n".join(part for part in parts if part)
    return whole_file(told, {*imports, *words.imports(play)}, text)


def _constants(play: Play) -> list[str]:
    lines = spread("PACKED = ", {**play.packing()}) if play.packing() else []
    added = sorted({turn.call.number for turn in play.turns if turn.call.method == "add"})
    if added:
        from_disk = play.program.from_disk
        told = "LoRA A and LoRA B" if from_disk else "LoRA A, LoRA B and scaling"
        lines.append(f"ADAPTERS = {{  # by id: {told} of each module")
        for number in added:
            parts = []
            for name, part in play.adapter(number).items():
                scaling = [] if from_disk else [repr(part.scaling)]
                parts.append((f'"{name}": (', [tensor_text(part.lora_a), tensor_text(part.lora_b), *scaling]))
            alone = f"{INDENT}{number + 1}: {{{', '.join(head + ', '.join(given) + ')' for head, given in parts)}}},"
            if len(alone) <= LONGEST:
                lines.append(alone)
                continue
            inner = [line for head, given in parts for line in call(head, given, "),", depth=2, width=LONGEST)]
            lines += [f"{INDENT}{number + 1}: {{", *inner, f"{INDENT}}},"]
        lines.append("}")
        lines += configs(play, added) if from_disk else []
    return ["\n".join(lines)] if lines else []


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
    plain = "Model()" if dialect.impl == "vllm" else "torch.nn.Module()"
    lines, made = [f"model: Any = {plain}"], set()
    context = dialect.context if play.program.model.tp_size > 1 else None
    short = play.names()
    for index, (case, tensors, module, named) in enumerate(
        zip(play.values.cases, play.values.tensors, play.program.model.linears, names, strict=True)
    ):
        lines += built(case, tensors.weights, tensors.biases, context, named, DECLARED[index > 0])
        for name in module.names:
            parts = short[name].split(".")
            for above in (".".join(parts[:count]) for count in range(1, len(parts))):
                lines += [f"model.{above} = torch.nn.Module()"] if above not in made else []
                made.add(above)
            lines.append(f"model.{short[name]} = layer")
    return lines


def _functions(play: Play, dialect: Dialect, lines: list[str], ending: Ending) -> list[str]:
    """The test, and with several ranks what each of them does."""
    name = f"test_{play.clause}_{play.anomaly}".lower().replace("-", "_")
    is_vllm, size = dialect.impl == "vllm", play.program.model.tp_size
    head = f"def {name}({'monkeypatch: pytest.MonkeyPatch' if is_vllm else ''}) -> None:"
    test = []
    if is_vllm and size == 1:
        test.append("alone = SimpleNamespace(world_size=1, rank_in_group=0)")
    if is_vllm:
        test.append(f'monkeypatch.setattr(parallel_state, "_TP", {"alone" if size == 1 else "RANKS"})')
    if size == 1:
        return ["\n".join([head, *indented([*test, *lines, *ending.verdict()])])]
    told = ["return outputs"] if ending.compares else []
    summed = ["outputs = torch.tensor(outputs).sum(0).tolist()"] if ending.summed else []
    if is_vllm and not _communicates(play):
        run = ["def on_rank(rank: int) -> Any:", *indented([*lines, *told])]
        each = [*_IN_TURN[:2], f"{INDENT}outputs.append(on_rank(rank))"] if told else [*_IN_TURN[:2], _IN_TURN[2]]
        test = [*(["outputs = []"] if told else []), f"for rank in range({size}):", *each, *summed, *ending.verdict()]
        test = [line.replace("SIZE", str(size)) for line in test]
        return ["\n".join(run), "\n".join([head, *indented(test)])]
    run = ["def on_rank(rank: int) -> Any:", *indented([f"RANKS.{dialect.rank} = rank", *lines, *told])]
    every = f"{INDENT}{'outputs = ' if told else ''}list(pool.map(on_rank, range({size})))"
    pool = [f"with ThreadPoolExecutor({size}) as pool:", every]
    test += [*pool, *summed, *ending.verdict()]
    ranks = dialect.ranks(size, reduces=any(layer_reduces(case) for case in play.values.cases))
    return [ranks, "\n".join(run), "\n".join([head, *indented(test)])]


_IN_TURN = (
    f"{INDENT}group = SimpleNamespace(world_size=SIZE, rank_in_group=rank)",
    f'{INDENT}monkeypatch.setattr(parallel_state, "_TP", group)',
    f"{INDENT}on_rank(rank)",
)


def _communicates(play: Play) -> bool:
    """Whether ranks may wait for each other; where not, they can run in turn."""
    gathers = any(layer_reduces(case) or case.layer.gather_output for case in play.values.cases)
    return gathers or play.program.fully_sharded or play.anomaly == "raised"
