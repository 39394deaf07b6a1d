"""Python text for data, each piece on one line: `conformance.test_files.layout` breaks what is too long."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

INDENT = "    "
LONGEST = 88  # characters of a line: what vLLM's own tests keep to
WIDTH = LONGEST - len(INDENT)  # of a line in a function's body, without its indentation
_STRING = LONGEST - 5 * len(INDENT) - 4  # of a part of a long string, which no formatter breaks, however deep
_FEW = 8  # elements: up to these also a tensor that is the same everywhere is written out
_LIST = WIDTH - 5 * len(INDENT)  # characters of a tensor that is a list: with what is around it they fit on a line
LARGEST = 4  # in absolute value, of the integers that are digits less 4
# What a file with tensors or rows of numbers as strings defines: they take a line where a list takes one for each row.
INTEGERS = """
def integers(digits: str, shape: tuple[int, ...], step: float = 1.0) -> torch.Tensor:
    return torch.tensor([(int(one) - 4) * step for one in digits]).view(shape)
""".strip("\n")
NUMBERS = """
def numbers(text: str) -> list[list[float]]:
    return [[float(one) for one in row.split()] for row in text.split(";")]
""".strip("\n")


@dataclass(frozen=True, slots=True, repr=False)
class Expression:
    """Text that stands for itself among arguments."""

    text: str

    def __repr__(self) -> str:
        return self.text


def number(value: float) -> str:
    """The shortest text that reads back as ``value``, also where it is no number."""
    if value != value:
        return "torch.nan"
    return f"{'-' if value < 0 else ''}torch.inf" if value in (float("inf"), -float("inf")) else repr(value)


def one_line(value: object) -> str:
    """``value``, tensors as nested lists."""
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


def rows(value: object, width: int = WIDTH) -> str:
    """`one_line`; rows of numbers that have no place on a line are a string."""
    if isinstance(value, Tensor):
        value = value.tolist()
    whole = one_line(value)
    if len(whole) <= width or not isinstance(value, (list, tuple)):
        return whole
    if _is_matrix(value):
        told = "; ".join(" ".join(repr(one).removesuffix(".0") for one in row) for row in value)
        parts = textwrap.wrap(told, _STRING, break_on_hyphens=False)
        return f"numbers({_joined([*(f'{part} ' for part in parts[:-1]), parts[-1]])})"
    inside = ", ".join(rows(item, width - len(INDENT)) for item in value)
    return f"[{inside}]" if isinstance(value, list) else f"({inside},)"


def _is_matrix(items: Sequence[object]) -> bool:
    """Whether these are several rows of numbers."""
    lists = [item for item in items if isinstance(item, list) and item]
    return 1 < len(lists) == len(items) and all(isinstance(one, float) for row in lists for one in row)


def _joined(parts: Sequence[str]) -> str:
    """A string in parts, each with a line of its own where it is long."""
    return " ".join(f'"{part}"' for part in parts)


def equals(name: str, value: object) -> str:
    """An assertion that ``name`` equals numbers."""
    return f"assert {name} == {rows(value, WIDTH - len(f'assert {name} == '))}"


def assertion(name: str, ranks: Sequence[object]) -> list[str]:
    """An assertion that ``name`` equals ``ranks``; where all of them are alike, one is written."""
    whole = f"assert {name} == {one_line(list(ranks))}"
    if len(whole) <= WIDTH or any(one != ranks[0] for one in ranks):
        return [equals(name, list(ranks))]
    alike = f"assert {name} == [{one_line(ranks[0])}] * {len(ranks)}"
    if len(alike) <= WIDTH:
        return [alike]
    return [f"expected = {rows(ranks[0])}", f"assert {name} == [expected] * {len(ranks)}"]


def call(head: str, arguments: Sequence[str] | Mapping[str, object]) -> str:
    """A call: of names with values, or of expressions."""
    if isinstance(arguments, Mapping):
        arguments = [f"{name}={one_line(value)}" for name, value in arguments.items()]
    return f"{head}({', '.join(arguments)})"


def tensor_text(tensor: Tensor | None) -> str:
    """An expression that makes the tensor; what is the same everywhere is said so, what is long is a string."""
    if tensor is None:
        return "None"
    shape = one_line(tuple(tensor.shape))
    if not tensor.numel():
        return f"torch.empty({shape})"
    if tensor.numel() > 2 and bool(tensor.isnan().all()):
        return f"torch.full({shape}, torch.nan)"
    if tensor.numel() > _FEW and bool((tensor == tensor.flatten()[0]).all()):
        return f"torch.full({shape}, {number(float(tensor.flatten()[0]))})"
    if len(one_line(tensor)) > _LIST:
        step = float(tensor[tensor != 0].abs().min())  # were all of them zero, they would be alike
        steps = tensor / step
        if bool((steps == steps.round()).all()) and steps.abs().max() <= LARGEST:
            told = "".join(str(int(one) + LARGEST) for one in steps.flatten().tolist())
            parts = [told[at : at + _STRING] for at in range(0, len(told), _STRING)]
            return f"integers({_joined(parts)}, {shape}{'' if step == 1 else f', {step!r}'})"
    return f"torch.tensor({rows(tensor)})"


def ids_text(ids: Tensor) -> str:
    """An expression that makes a tensor of integers, which may be none."""
    if not ids.numel():
        return f"torch.empty({one_line(tuple(ids.shape))}, dtype=torch.int64)"
    return f"torch.tensor({one_line(ids)})"


def indented(lines: Sequence[str]) -> list[str]:
    """One level deeper; a line may be several."""
    return [f"{INDENT}{line}" if line else line for line in "\n".join(lines).splitlines()]
