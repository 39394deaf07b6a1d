"""Python text for data: numbers, nested lists and calls, broken over lines the way a formatter leaves them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from conformance.test_files.margins import INDENT, WIDTH
from conformance.test_files.number_strings import LARGEST, digits, is_matrix, matrix

_FEW, _MANY = 8, 40  # elements: up to these every tensor is written out
_written_out = ContextVar("written_out", default=_MANY)


@dataclass(frozen=True, slots=True, repr=False)
class Expression:
    """Text that stands for itself among arguments."""

    text: str

    def __repr__(self) -> str:
        return self.text


@contextmanager
def compactly() -> Iterator[None]:
    """Inside the block only small tensors are written out, row by row, as lists: for files that were too long."""
    token = _written_out.set(_FEW)
    try:
        yield
    finally:
        _written_out.reset(token)


def number(value: float) -> str:
    """The shortest text that reads back as ``value``, also where it is no number."""
    if value != value:
        return "torch.nan"
    return f"{'-' if value < 0 else ''}torch.inf" if value in (float("inf"), -float("inf")) else repr(value)


def one_line(value: object) -> str:
    """``value``, tensors as nested lists, on one line."""
    if isinstance(value, Tensor):
        return one_line(value.tolist())
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(one_line, value))
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{one_line(key)}: {one_line(item)}' for key, item in value.items())}}}"
    if isinstance(value, str):
        return json.dumps(value)
    return number(value) if isinstance(value, float) else repr(value)


def spread(head: str, value: object, tail: str = "", *, depth: int = 0) -> list[str]:
    """``head``, ``value`` and ``tail`` as lines indented by ``depth`` levels; a long list has an item a line."""
    indent = INDENT * depth
    line = f"{indent}{head}{one_line(value)}{tail}"
    items = value.tolist() if isinstance(value, Tensor) else value
    if len(line) > WIDTH and isinstance(value, dict):
        inside = [
            text for key, item in value.items() for text in spread(f"{one_line(key)}: ", item, ",", depth=depth + 1)
        ]
        return [f"{indent}{head}{{", *inside, f"{indent}}}{tail}"]
    if len(line) <= WIDTH or not isinstance(items, (list, tuple)) or not items:
        return [line]
    if _written_out.get() == _FEW and is_matrix(items):
        return matrix(f"{indent}{head}", items, tail, depth)
    left, right = "[]" if isinstance(items, list) else "()"
    inner = [text for item in items for text in spread("", item, ",", depth=depth + 1)]
    return [f"{indent}{head}{left}", *inner, f"{indent}{right}{tail}"]


def assertion(name: str, ranks: Sequence[object]) -> list[str]:
    """An assertion that ``name`` equals ``ranks``; where all of them are alike, one is written."""
    whole = spread(f"assert {name} == ", list(ranks))
    if len(whole) == 1 or any(one != ranks[0] for one in ranks):
        return whole
    alike = f"assert {name} == [{one_line(ranks[0])}] * {len(ranks)}"
    return (
        [alike]
        if len(alike) <= WIDTH
        else [*spread("expected = ", ranks[0]), f"assert {name} == [expected] * {len(ranks)}"]
    )


def names_one_of(kind: str, names: Sequence[str]) -> list[str]:
    """An assertion that ``said`` names one of the modules or targets, whichever ``kind`` they are."""
    given = tuple(names)
    line = f"assert any({kind} in said for {kind} in {one_line(given)})"
    if len(line) <= WIDTH:
        return [line]
    return [*spread(f"{kind}s = ", given), f"assert any({kind} in said for {kind} in {kind}s)"]


def call(
    head: str,
    arguments: Sequence[str] | Mapping[str, object],
    tail: str = ")",
    *,
    depth: int = 0,
    width: int = WIDTH,
) -> list[str]:
    """A call as lines: ``head`` ends in its opening bracket; too long, its arguments have a line, or one each."""
    if isinstance(arguments, Mapping):
        arguments = [f"{name}={one_line(value)}" for name, value in arguments.items()]
    indent = INDENT * depth
    line = f"{indent}{head}{', '.join(arguments)}{tail}"
    if len(line) <= width:
        return [line]
    together = f"{indent}{INDENT}{', '.join(arguments)}"
    if re.search(r"\w\($", head) and tail == ")" and len(together) <= width:
        return [f"{indent}{head}", together, f"{indent}{tail}"]
    inner = [line for argument in arguments for line in _argument(argument, depth + 1, width)]
    return [f"{indent}{head}", *inner, f"{indent}{tail}"]


def passed(head: str, slot: int, inner: str, items: Sequence[object], *others: str) -> list[str]:
    """``head`` called with a slot and with the call ``inner`` of a tuple; too long, every argument has a line."""
    line = f"{head}{slot}, {', '.join([f'{inner}{one_line(tuple(items))}', *others])}))"
    if len(line) <= WIDTH:
        return [line]
    told = [*spread("", tuple(items), ",", depth=2), *(f"{INDENT * 2}{one}," for one in others)]
    return [head, f"{INDENT}{slot},", f"{INDENT}{inner}", *told, f"{INDENT}),", ")"]


def _argument(text: str, depth: int, width: int) -> list[str]:
    """One argument of a call, with a comma; a tensor too long for a line has a row a line."""
    line = f"{INDENT * depth}{text},"
    if len(line) > width and text.startswith('integers("'):
        return digits(text, depth, width)
    if len(line) <= width or not text.startswith("torch.tensor("):
        return [line]
    rows = spread("", ast.literal_eval(text.removeprefix("torch.tensor(").removesuffix(")")), depth=depth + 1)
    indent = INDENT * depth
    return [f"{indent}torch.tensor(", *rows, f"{indent}),"]


def tensor_text(tensor: Tensor | None) -> str:
    """An expression that makes the tensor; what is the same everywhere is said so, what is large is a formula."""
    if tensor is None:
        return "None"
    shape = one_line(tuple(tensor.shape))
    if not tensor.numel():
        return f"torch.empty({shape})"
    if tensor.numel() > 2 and bool(tensor.isnan().all()):
        return f"torch.full({shape}, torch.nan)"
    if tensor.numel() > _FEW and bool((tensor == tensor.flatten()[0]).all()):
        return f"torch.full({shape}, {number(float(tensor.flatten()[0]))})"
    if tensor.numel() > _written_out.get():
        step = float(tensor[tensor != 0].abs().min())  # were all of them zero, they would be alike
        steps = tensor / step
        if bool((steps == steps.round()).all()) and steps.abs().max() <= LARGEST:
            told = "".join(str(int(one) + LARGEST) for one in steps.flatten().tolist())
            return f'integers("{told}", {shape}{"" if step == 1 else f", {step!r}"})'
    return f"torch.tensor({one_line(tensor)})"


def assigned(name: str, tensor: Tensor) -> list[str]:
    """``name = `` and an expression that makes the tensor, as lines."""
    text = tensor_text(tensor)
    if len(f"{name} = {text}") <= WIDTH:
        return [f"{name} = {text}"]
    made, _, given = text.removesuffix(")").partition("(")
    if made == "torch.tensor":
        inside = spread("", tensor, depth=1)
    else:
        together = f"{INDENT}{given}"
        inside = [together] if len(together) <= WIDTH else digits(text, 0)[1:-1]
    return [f"{name} = {made}(", *inside, ")"]


def indented(lines: Sequence[str]) -> list[str]:
    """One level deeper; a line may be several."""
    return [f"{INDENT}{line}" if line else line for line in "\n".join(lines).splitlines()]
