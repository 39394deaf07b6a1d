"""The writer: a stored failure as a pytest file that stands on its own."""

from __future__ import annotations

import re
import textwrap
import threading
from collections.abc import Mapping

from conformance.contract import CONTRACT
from conformance.regressions import questions
from conformance.regressions.dialects import Dialect, LoraCompat, Vllm
from conformance.regressions.literals import INDENT, spread
from conformance.regressions.program import (
    TENSORS,
    default_dtype,
    expected_outputs,
    statements,
    wrapper_classes,
)
from conformance.regressions.scenes import LAYER_CLAUSES, SILENT, Scene, scene_of
from conformance.regressions.store import Entry, StoredFailure
from strategies.cases import Case
from strategies.ranks import RankQuestion
from strategies.source import render

DIALECTS: tuple[Dialect, ...] = (LoraCompat(), Vllm())
_STANDARD = ("import threading", "from collections", "from concurrent", "from types", "from typing")
_CPU_PLATFORM = [
    "import vllm.platforms",
    "from vllm.platforms.cpu import CpuPlatform",
    "",
    "vllm.platforms._current_platform = CpuPlatform()  # before anything else of vLLM",
]


# The oracle's engine serves one case at a time.
_one_at_a_time = threading.Lock()


class CannotWrite(ValueError):
    """A failure that no file can be written for; the message says why."""


def file_name(entry: Entry, failure: StoredFailure, dialect: Dialect) -> str:
    """``test_<clause>_<short hash>.py``, with ``_vllm`` where it is for plain vLLM."""
    clause = failure.clause.lower().replace("-", "_")
    return f"test_{clause}_{entry.id[:8]}{dialect.suffix}.py"


def write(entry: Entry, failure: StoredFailure, dialect: Dialect, proof: str) -> str:
    """The text of the file.

    Raises:
        CannotWrite: there is no such file for this clause, or for this library.
    """
    with _one_at_a_time:
        return _written(entry, failure, dialect, proof)


def _written(entry: Entry, failure: StoredFailure, dialect: Dialect, proof: str) -> str:
    case = entry.spec()
    told = _docstring(entry, failure, proof)
    if isinstance(case, RankQuestion):
        return questions.write(failure.clause, case, dialect, told)
    if not isinstance(case, Case) or failure.clause not in LAYER_CLAUSES:
        raise CannotWrite(f"{failure.clause} has no form as a single file yet; replay the case")
    scene = scene_of(failure.clause, failure.anomaly, case, failure.message)
    reason = dialect.reason_against(scene)
    if reason is not None:
        raise CannotWrite(reason)
    return _file(scene, dialect, told, failure)


def _docstring(entry: Entry, failure: StoredFailure, proof: str) -> str:
    clause = CONTRACT[failure.clause]
    identity: Mapping[str, str] = failure.identity
    versions = ", ".join([identity.get("implementation", failure.impl), f"torch {identity.get('torch', 'unknown')}"])
    matters = ", ".join(failure.indifferent)
    paragraphs = [
        f"Seen, {failure.anomaly}: {failure.message.splitlines()[0]}",
        f"Found on {versions}." + (f" What does not matter: {matters}." if matters else ""),
        f"Proof: {proof}",
        f"Case {entry.id}",
    ]
    text = "\n".join(textwrap.fill(" ".join(one.split()), 88) for one in paragraphs)
    head = textwrap.fill(f"{failure.clause} {clause.level.value} {clause.sentence}", 85)
    return f'"""{head}\n\n{text}\n"""'.replace("\\", "/")


def _file(scene: Scene, dialect: Dialect, told: str, failure: StoredFailure) -> str:
    body = _body(scene, dialect)
    class_imports, definition = _class_source(scene, dialect)
    parts = [*wrapper_classes(scene), *([TENSORS] if scene.counts_tensors else [])]
    if scene.case.tp_size > 1:
        parts.append(_logging(dialect.ranks(scene.case)) if not scene.compares else dialect.ranks(scene.case))
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    functions = ["\n".join(lines) for lines in body(name)]
    text = "\n\n\n".join(part for part in [definition, *parts, *functions] if part)
    fixture = "\n".join(default_dtype(scene)).strip("\n")
    if fixture:
        text = text.replace("\n\n\ndef ", f"\n\n\n{fixture}\n\n\ndef ", 1)
    imports = _imports(scene, dialect, class_imports, text)
    return f"{told}\n\n{imports}\n\n\n{text}\n"


def _logging(ranks: str) -> str:
    """A group that keeps what every rank issues."""
    log = "log: dict[int, list[tuple[int, ...]]] = defaultdict(list)  # shapes, by rank"
    head, gather, tail = ranks.partition("        self.parts[self.local.rank]")
    head = head.replace("    barrier = ", f"    {log}\n    barrier = ")
    return f"{head}        self.log[self.local.rank].append(tuple(tensor.shape))\n{gather}{tail}"


def _class_source(scene: Scene, dialect: Dialect) -> tuple[set[str], str]:
    """The rendered class, its import lines apart."""
    source = render(scene.case.layer, scene.case.subclass, dialect.library)
    lines = source.splitlines()
    imports = {line for line in lines if re.match(r"(from|import) ", line)}
    if scene.case.subclass.depth == 0:
        return imports, ""
    return imports, "\n".join(line for line in lines if line not in imports).strip("\n")


def _body(scene: Scene, dialect: Dialect):  # type: ignore[no-untyped-def]
    """The functions of the file, given the test's name."""
    lines = statements(scene, dialect)
    several = scene.case.tp_size > 1

    def functions(name: str) -> list[list[str]]:
        is_vllm = isinstance(dialect, Vllm)
        head = f"def {name}({'monkeypatch: pytest.MonkeyPatch' if is_vllm else ''}) -> None:"
        test = [head]
        if is_vllm:
            if not several:
                test.append(f"{INDENT}alone = SimpleNamespace(world_size=1, rank_in_group=0)")
            test.append(f'{INDENT}monkeypatch.setattr(parallel_state, "_TP", {"RANKS" if several else "alone"})')
        if not several:
            return [[*test, *_indented([*lines, *_verdict(scene, dialect, lines)])]]
        last = _last(scene, dialect, lines)
        run = ["def on_rank(rank: int) -> Any:", f"{INDENT}RANKS.local.rank = rank"]
        run += _indented([*lines, *last])
        return [run, [*test, *_indented(_verdict_of_ranks(scene))]]

    return functions


def _last(scene: Scene, dialect: Dialect, lines: list[str]) -> list[str]:
    """What a rank hands back."""
    if scene.only_wraps:
        return [f"return {dialect.wrapped()}"]
    if scene.asks_claimants:
        return ["return len(claimants)"]
    if scene.unwraps:
        return ["return outputs == layer.weight.tolist()"]
    if not scene.compares:
        return ["return RANKS.log[rank]"]
    if lines[-1].startswith("outputs = "):
        lines[-1] = lines[-1].replace("outputs = ", "return ", 1)
        return []
    return ["return outputs"]


def _verdict(scene: Scene, dialect: Dialect, lines: list[str]) -> list[str]:
    """The assertion of a case of one rank."""
    if scene.only_wraps:
        return [f"assert {dialect.wrapped()}"]
    if scene.asks_claimants:
        return ["assert len(claimants) == 1"]
    if scene.unwraps:
        return ["assert outputs == layer.weight.tolist()"]
    expected = expected_outputs(scene)
    return _compared("outputs", expected[0], scene)  # type: ignore[index]


def _verdict_of_ranks(scene: Scene) -> list[str]:
    """What the test does with several ranks: runs them, and compares what they hand back."""
    count = scene.case.tp_size
    lines = [
        f"with ThreadPoolExecutor({count}) as pool:",
        f"{INDENT}outputs = list(pool.map(on_rank, range({count})))",
    ]
    if scene.only_wraps or scene.unwraps:
        return [*lines, f"assert outputs == [True] * {count}"]
    if scene.asks_claimants:
        return [*lines, f"assert outputs == [1] * {count}"]
    if not scene.compares:
        return [*lines, "assert outputs[0] == []" if scene.clause in SILENT else "assert outputs[1:] == outputs[:-1]"]
    expected = expected_outputs(scene)
    if scene.summed:
        lines.append("outputs = torch.tensor(outputs).sum(0).tolist()")
        return [*lines, *_compared("outputs", expected[0], scene)]  # type: ignore[index]
    return [*lines, *_compared("outputs", expected, scene)]


def _compared(name: str, expected: object, scene: Scene) -> list[str]:
    if scene.bound == 0:
        return spread(f"assert {name} == ", expected)
    bound = f"{scene.bound:.3g}"
    lines = spread("expected = ", expected)
    return [
        *lines,
        f'close = {{"rtol": 0, "atol": {bound}}}  # the largest error that rounding explains',
        f"torch.testing.assert_close(torch.tensor({name}), torch.tensor(expected), **close)",
    ]


def _indented(lines: list[str], depth: int = 1) -> list[str]:
    return [f"{INDENT * depth}{line}" if line else line for line in "\n".join(lines).splitlines()]


def _imports(scene: Scene, dialect: Dialect, of_class: set[str], text: str) -> str:
    """Import lines in the order that isort gives them: standard library, third parties."""
    lines = {*of_class, *dialect.imports(scene)[0]}
    if "torch." in text:
        lines.add("import torch")
    if "pytest." in text:
        lines.add("import pytest")
    if "SimpleNamespace" in text:
        lines.add("from types import SimpleNamespace")
    if "Any" in text:
        lines.add("from typing import Any")
    collections = [name for name in ("Callable", "Iterator") if f"{name}[" in text]
    if collections:
        lines.add(f"from collections.abc import {', '.join(collections)}")
    if "defaultdict" in text:
        lines.add("from collections import defaultdict")
    if "ThreadPoolExecutor" in text:
        lines |= {"import threading", "from concurrent.futures import ThreadPoolExecutor"}
    standard = sorted((line for line in lines if line.startswith(_STANDARD)), key=_import_key)
    late = sorted((line for line in lines if "vllm" in line.split()[1]), key=_import_key)
    ours = sorted((line for line in lines if "lora_compat" in line.split()[1]), key=_import_key)
    others = sorted(lines - {*standard, *late, *ours}, key=_import_key)
    if not late:
        return "\n\n".join("\n".join(group) for group in (standard, others, ours) if group)
    first = [*others, *_CPU_PLATFORM]
    groups = ["# ruff: noqa: E402", "\n".join(standard), "\n".join(first), "\n".join(late)]
    return "\n\n".join(group for group in groups if group)


def _import_key(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line.split()[1]
