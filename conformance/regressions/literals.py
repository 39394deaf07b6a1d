"""Python text for data: numbers, nested lists and calls, broken over lines the way a formatter leaves them."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence

from torch import Tensor

# What vLLM's own tests keep to, less the indentation of a function's body.
WIDTH = 88 - 4
INDENT = "    "


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
    if isinstance(value, str):
        return json.dumps(value)
    return number(value) if isinstance(value, float) else repr(value)


def spread(head: str, value: object, tail: str = "", *, depth: int = 0) -> list[str]:
    """``head``, ``value`` and ``tail`` as lines indented by ``depth`` levels; a long list has an item a line."""
    indent = INDENT * depth
    line = f"{indent}{head}{one_line(value)}{tail}"
    items = value.tolist() if isinstance(value, Tensor) else value
    if len(line) <= WIDTH or not isinstance(items, (list, tuple)) or not items:
        return [line]
    left, right = "[]" if isinstance(items, list) else "()"
    inner = [text for item in items for text in spread("", item, ",", depth=depth + 1)]
    return [f"{indent}{head}{left}", *inner, f"{indent}{right}{tail}"]


def call(head: str, arguments: Sequence[str] | Mapping[str, object], tail: str = ")", *, depth: int = 0) -> list[str]:
    """A call as lines: ``head`` ends in its opening bracket; too long, it has an argument a line."""
    if isinstance(arguments, Mapping):
        arguments = [f"{name}={one_line(value)}" for name, value in arguments.items()]
    indent = INDENT * depth
    line = f"{indent}{head}{', '.join(arguments)}{tail}"
    if len(line) <= WIDTH:
        return [line]
    inner = [line for argument in arguments for line in _argument(argument, depth + 1)]
    return [f"{indent}{head}", *inner, f"{indent}{tail}"]


def _argument(text: str, depth: int) -> list[str]:
    """One argument of a call, with a comma; a tensor too long for a line has a row a line."""
    line = f"{INDENT * depth}{text},"
    if len(line) <= WIDTH or not text.startswith("torch.tensor("):
        return [line]
    rows = spread("", ast.literal_eval(text.removeprefix("torch.tensor(").removesuffix(")")), ",", depth=depth + 1)
    indent = INDENT * depth
    rows[-1] = rows[-1].removesuffix(",")
    return [f"{indent}torch.tensor(", *rows, f"{indent}),"]
