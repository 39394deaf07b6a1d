"""Regression files of one layer."""

from __future__ import annotations

from conformance.test_files.construction import class_source, default_dtype, wrapper_classes
from conformance.test_files.dialects import Dialect, layer_reduces
from conformance.test_files.layout import whole_file
from conformance.test_files.literals import INDENT, assertion, equals, indented, rows
from conformance.test_files.program import TENSORS, expected_outputs, statements
from conformance.test_files.scenes import DEQUANTIZING, SILENT, Scene
from conformance.test_files.vllm_dialect import Vllm


def write(scene: Scene, dialect: Dialect, told: str) -> str:
    """The file."""
    imports, definition = class_source(scene.case, dialect.library)
    parts = [definition, *wrapper_classes(scene), *([TENSORS] if scene.counts_tensors else [])]
    imports |= dialect.imports(scene)
    lines = statements(scene, dialect)
    return assembled(scene, dialect, told, lines, imports, parts, reduces=layer_reduces(scene.case))


def assembled(
    scene: Scene,
    dialect: Dialect,
    told: str,
    lines: list[str],
    imports: set[str],
    parts: list[str],
    *,
    reduces: bool,
) -> str:
    """The file in which every rank does ``lines``, below the definitions ``parts``."""
    body = _body(scene, dialect, lines)
    if scene.case.tp_size > 1:
        ranks = dialect.ranks(scene.case.tp_size, reduces=reduces)
        parts.append(ranks if scene.compares else _logging(ranks, dialect.rank, scene.case.tp_size))
    name = f"test_{scene.clause}_{scene.anomaly}".lower().replace("-", "_")
    functions = ["\n".join(lines) for lines in body(name)]
    text = "\n\n\n".join(part for part in [*parts, *functions] if part)
    fixture = "\n".join(default_dtype(scene)).strip("\n")
    if fixture:
        text = text.replace("\n\n\ndef ", f"\n\n\n{fixture}\n\n\ndef ", 1)
    return whole_file(told, imports, text)


def _logging(ranks: str, rank: str, count: int) -> str:
    """A group that keeps what every rank issues."""
    log = f"log: list[list[tuple[int, ...]]] = [[] for _ in range({count})]  # shapes, by rank"
    head, gather, tail = ranks.partition("        self.barrier.wait()")
    head = head.replace("    barrier = ", f"    {log}\n    barrier = ")
    return f"{head}        self.log[self.{rank}].append(tuple(tensor.shape))\n{gather}{tail}"


def _body(scene: Scene, dialect: Dialect, lines: list[str]):  # type: ignore[no-untyped-def]
    """The functions of the file, given the test's name."""
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
            return [[*test, *indented([*lines, *_verdict(scene, dialect, lines)])]]
        last = _last(scene, dialect, lines)
        run = ["def on_rank(rank: int) -> Any:", f"{INDENT}RANKS.{dialect.rank} = rank"]
        run += indented([*lines, *last])
        return [run, [*test, *indented(_verdict_of_ranks(scene))]]

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
    if scene.clause in DEQUANTIZING:
        lines += [f"if outputs == [None] * {count}:  # all report it", f"{INDENT}return"]
    if scene.summed:
        lines.append("outputs = torch.tensor(outputs).sum(0).tolist()")
        return [*lines, *_compared("outputs", expected[0], scene)]  # type: ignore[index]
    if scene.bound == 0:
        return [*lines, *assertion("outputs", expected)]  # type: ignore[arg-type]
    return [*lines, *_compared("outputs", expected, scene)]


def _compared(name: str, expected: object, scene: Scene) -> list[str]:
    if scene.bound == 0:
        return [equals(name, expected)]
    bound = f"{scene.bound:.3g}"
    return [
        f"expected = {rows(expected)}",
        f"most = {bound}  # the largest error that rounding explains",
        f"torch.testing.assert_close({name}, expected, rtol=0, atol=most)",
    ]
