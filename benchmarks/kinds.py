"""Time over floor kind by kind: what do the shapes that miss a goal have in common?

    python -m benchmarks.kinds FILE.json        # a run of benchmarks.kernels, written by --output

Each axis cuts all shapes anew, so that a row of the table is one kind and not a mixture of two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from math import inf, nan
from pathlib import Path
from statistics import geometric_mean
from typing import Any

Row = dict[str, Any]
# What is counted of a row, and up to where each kind goes.
AXES: dict[str, tuple[Callable[[Row], float], tuple[float, ...]]] = {
    "tokens with adapter": (lambda row: row["adapted"], (8, 64, 512, inf)),
    "tokens of the fullest slot": (lambda row: row["fullest"], (2, 16, 64, inf)),
    "slots in use": (lambda row: row["in_use"], (1, 4, 16, inf)),
    "slices": (lambda row: len(row["slices"]), (1, 2, inf)),
    "rank": (lambda row: row["rank"], (16, 64, 128, inf)),
    "bytes, µs": (lambda row: row["bytes_us"], (2.2, 10, 50, inf)),
}
TWICE = 2.0  # the floor: the goal for every shape
NEAR = 1.2  # times plain, which no pair of kernels that multiplies came below by much


def kinds(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Each kind that has shapes, named, with its rows; a row is in one kind of every axis."""
    for axis, (value, bounds) in AXES.items():
        for low, high in zip((-inf, *bounds), bounds, strict=False):
            inside = [row for row in rows if low < value(row) <= high]
            name = f"{axis} to {high:g}" if high < inf else f"{axis} above {low:g}"
            if inside:
                yield name, inside


def mean_ratio(rows: list[Row], above: str, below: str) -> float:
    """Geometric mean of one time over another, NaN where one of them was not measured."""
    if any(name not in row for row in rows for name in (above, below)):
        return nan
    return geometric_mean([row[above] / row[below] for row in rows])


def line(name: str, rows: list[Row]) -> str:
    """One row of `markdown`."""
    missed = [row for row in rows if row["ours_us"] > TWICE * row["floor_us"]]
    beyond = [row for row in missed if NEAR * row.get("plain_us", nan) > TWICE * row["floor_us"]]
    ratios = (("ours_us", "floor_us"), ("plain_us", "floor_us"), ("ours_us", "plain_us"))
    means = " | ".join(f"{mean_ratio(rows, *pair):.2f}".replace("nan", "–") for pair in ratios)
    beyond_shown = len(beyond) if all("plain_us" in row for row in rows) else "–"
    return f"| {name} | {len(rows)} | {means} | {len(missed)} | {beyond_shown} |"


def markdown(rows: list[Row]) -> str:
    """The table by kind; its last column counts shapes where even 1.2 × plain is above twice the floor."""
    head = "| kind | shapes | ours / floor | plain / floor | ours / plain | above twice | 1.2 × plain, too |"
    lines = [line(name, inside) for name, inside in kinds(rows)]
    return "\n".join([head, "|---|--:|--:|--:|--:|--:|--:|", line("all", rows), *lines])


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())["rows"]))
