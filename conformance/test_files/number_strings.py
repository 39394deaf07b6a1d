"""Tensors and rows of numbers as strings, which take a line where a list takes one for each row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from conformance.test_files.margins import INDENT, WIDTH

# What a file with such strings defines.
INTEGERS = """
def integers(digits: str, shape: tuple[int, ...], step: float = 1.0) -> torch.Tensor:
    return torch.tensor([(int(one) - 4) * step for one in digits]).view(shape)
""".strip("\n")
NUMBERS = """
def numbers(text: str) -> list[list[float]]:
    return [[float(one) for one in row.split()] for row in text.split(";")]
""".strip("\n")
LARGEST = 4  # in absolute value, of the integers that are digits less 4


def is_matrix(items: Sequence[object]) -> bool:
    """Whether these are several rows of numbers."""
    rows = [item for item in items if isinstance(item, list) and item]
    return 1 < len(rows) == len(items) and all(isinstance(one, float) for row in rows for one in row)


def matrix(head: str, rows: Sequence[Sequence[float]], tail: str, depth: int) -> list[str]:
    """Rows of numbers as a string, which takes a line where a list takes one for each row."""
    text = "; ".join(" ".join(repr(one).removesuffix(".0") for one in row) for row in rows)
    line = f'{head}numbers("{text}"){tail}'
    if len(line) <= WIDTH:
        return [line]
    inner = INDENT * (depth + 1)
    parts = [text]
    if len(f'{inner}"{text}"') > WIDTH:  # a formatter joins what fits
        parts = textwrap.wrap(text, WIDTH - len(inner) - 3, break_on_hyphens=False)
    told = [f'{inner}"{part} "' for part in parts[:-1]]
    return [f"{head}numbers(", *told, f'{inner}"{parts[-1]}"', f"{INDENT * depth}){tail}"]


def digits(text: str, depth: int, width: int = WIDTH) -> list[str]:
    """A formula whose digits are longer than a line."""
    _, told, rest = text.split('"')
    shape, _, step = rest.removeprefix(", ").removesuffix(")").partition("), ")
    given = [f"{shape.removesuffix(')')})", *([step] if step else [])]
    outer, inner, most = INDENT * depth, INDENT * (depth + 1), width - len(INDENT) * (depth + 1) - 3
    parts = [f'{inner}"{told[at : at + most]}"' for at in range(0, len(told), most)]
    return [f"{outer}integers(", *parts[:-1], f"{parts[-1]},", *(f"{inner}{one}," for one in given), f"{outer}),"]
