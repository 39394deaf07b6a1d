"""One description of a test, whatever it is about: what every rank does, and what must come of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import whole_file
from conformance.test_files.literals import INDENT, WIDTH, assertion, equals, indented, one_line, rows, tensor_text

_NARROW = """
@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    torch.set_default_dtype(torch.{})
    yield
    torch.set_default_dtype(torch.float32)
""".strip("\n")
_SUM = "outputs = torch.tensor(outputs).sum(0).tolist()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A test: ``lines`` on every rank, after what is done ``once``, and the ``verdict`` about what they leave.

    One rank's verdict follows its lines. Several ranks hand back ``returns``, an expression, and the verdict is about
    ``outputs``, a list of those; they run as threads of a group that ``reduces`` and ``logs``, or ``in_turn`` where
    they never wait for each other. ``world`` is how many ranks the library is told of, 0 for nothing; ``imports`` are
    lines that the ``definitions`` need.
    """

    lines: Sequence[str]
    once: Sequence[str] = ()
    verdict: Sequence[str] = ()
    returns: str = ""
    definitions: Sequence[str] = ()
    imports: Collection[str] = ()
    ranks: int = 1
    world: int = 1
    reduces: bool = False
    logs: bool = False
    in_turn: bool = False
    dtype: str = "float32"

    def text(self, name: str, dialect: Dialect, told: str) -> str:
        """The file, not laid out, with ``told`` for a docstring."""
        parts = list(self.definitions)
        narrow = "" if self.dtype == "float32" else _NARROW.format(self.dtype)
        patched = dialect.patched(self.world, "RANKS" if self.ranks > 1 else "alone")
        lines = _inlined(self.lines)
        if self.ranks == 1:
            return self._file([*parts, narrow], name, [*patched, *self.once, *lines, *self.verdict], dialect, told)
        if self.in_turn:
            return self._file(parts, name, [*self.once, *self._each(lines, dialect), *self.verdict], dialect, told)
        back = [f"return {self.returns}"] if self.returns else []
        if back and lines[-1].startswith(f"{self.returns} = "):
            lines[-1], back = lines[-1].replace(f"{self.returns} = ", "return ", 1), []
        parts += [dialect.group(self.ranks, reduces=self.reduces, logs=self.logs), narrow]
        chosen = f"RANKS.{dialect.rank} = rank"
        parts.append("\n".join(["def on_rank(rank: int) -> Any:", *indented([chosen, *lines, *back])]))
        kept = "outputs = " if self.returns else ""
        pool = [f"with ThreadPoolExecutor({self.ranks}) as pool:"]
        pool.append(f"{INDENT}{kept}list(pool.map(on_rank, range({self.ranks})))")
        return self._file(parts, name, [*patched, *pool, *self.verdict], dialect, told)

    def _each(self, lines: Sequence[str], dialect: Dialect) -> list[str]:
        """One rank after the other, each in a group of its own."""
        kept = [f"outputs.append({self.returns})"] if self.returns else []
        inner = [*dialect.patched(self.ranks, "group", "rank"), *lines, *kept]
        return [*(["outputs = []"] if kept else []), f"for rank in range({self.ranks}):", *indented(inner)]

    def _file(self, parts: list[str], name: str, body: list[str], dialect: Dialect, told: str) -> str:
        fixture = dialect.fixture if self.world else ""
        parts.append("\n".join([f"def {name}({fixture}) -> None:", *indented(body)]))
        return whole_file(told, self.imports, dialect.names, "\n\n\n".join(filter(None, parts)))


def claimed(expression: str, right: object, ranks: int) -> tuple[str, list[str]]:
    """What a rank hands back, and the verdict, where an expression must be ``right`` on every rank."""
    if ranks > 1:
        return expression, [f"assert outputs == [{right}] * {ranks}"]
    return expression, [f"assert {expression}" + ("" if right is True else f" == {right}")]


def compared(expected: Sequence[object], ranks: int, *, bound: float = 0.0, summed: bool = False) -> list[str]:
    """The verdict about ``outputs``, given every rank's, equal or up to ``bound``; of partial sums the sum alone."""
    lines = [_SUM] if summed and ranks > 1 else []
    alone = summed or ranks == 1
    if bound == 0:
        return [*lines, *([equals("outputs", expected[0])] if alone else assertion("outputs", expected))]
    return [
        *lines,
        f"expected = {rows(expected[0] if alone else list(expected))}",
        f"most = {bound:.3g}  # the largest error that rounding explains",
        "torch.testing.assert_close(outputs, expected, rtol=0, atol=most)",
    ]


def shown(forward: str, tokens: Sequence[int]) -> str:
    """What is compared of the tensor that ``forward`` gives: its numbers, or its shape where there is no token."""
    return f"{forward}.tolist()" if tokens else f"list({forward}.shape)"


def shown_of(right: Tensor, tokens: Sequence[int]) -> object:
    """What `shown` has to be."""
    return right.tolist() if tokens else list(right.shape)


def handed(inputs: Sequence[Tensor]) -> list[str]:
    """``x``, given every rank's."""
    if all(one.tolist() == inputs[0].tolist() for one in inputs):
        return [f"x = {tensor_text(inputs[0])}"]
    return [f"inputs = {rows([one.tolist() for one in inputs])}  # of each rank", "x = torch.tensor(inputs[rank])"]


def taken(forward: str, paths: tuple[str, ...]) -> list[str]:
    """``outputs``: the tensors that are ``paths`` of the ``result`` of a forward."""
    if len(paths) == 1:
        return [f"outputs = {paths[0].replace('result', forward, 1)}.tolist()"]
    return [f"result = {forward}", f"outputs = [{', '.join(f'{path}.tolist()' for path in paths)}]"]


def raises(*lines: str, context: str = "pytest.raises(Exception) as caught") -> list[str]:
    """Statements inside ``with``."""
    return [f"with {context}:", *indented(lines)]


def names_one_of(kind: str, names: Sequence[str]) -> list[str]:
    """An assertion that ``said`` names one of the modules or targets, whichever ``kind`` they are."""
    given = one_line(tuple(names))
    line = f"assert any({kind} in said for {kind} in {given})"
    if len(line) <= WIDTH:
        return [line]
    return [f"{kind}s = {given}", f"assert any({kind} in said for {kind} in {kind}s)"]


def _inlined(lines: Sequence[str]) -> list[str]:
    """An input that is short and used once needs no name."""
    named = [line for line in lines if line.startswith("x = ")]
    uses = [line for line in lines if re.search(r"\bx\b", line.removeprefix("x = "))]
    if len(named) != 1 or len(uses) != 1 or "(x)" not in uses[0]:
        return list(lines)
    inlined = uses[0].replace("(x)", f"({named[0].removeprefix('x = ')})")
    if len(inlined) > WIDTH:
        return list(lines)
    return [inlined if line is uses[0] else line for line in lines if line is not named[0]]
