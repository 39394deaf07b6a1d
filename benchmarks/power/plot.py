"""The plot: the part of the planted bugs that is caught, over the cases drawn, with every idea on and without each."""

from __future__ import annotations

import math
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.power.measuring import by_mutant

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 60, 30, 250, 50
COLOURS = ("#1b1b1b", "#d1495b", "#edae49", "#00798c", "#66a182", "#2e4057", "#a05195", "#8a8a8a")


def curves(data: dict[str, Any]) -> dict[str, list[float]]:
    """For each setting the cases to the first failure of every mutant; infinite where it was not caught."""
    most, hunts = data["cases"], by_mutant(data["hunts"])
    soonest = [median(n or most + 1 for n in hunts[one["mutant"]]["cases"]) for one in data["ideas"]]
    found = {"the suite": [_or_inf(cases, most) for cases in soonest]}
    for one in data["ideas"]:
        for name, cases in one["without"].items():
            found.setdefault(name, []).append(cases or math.inf)
    return found


def plot(data: dict[str, Any]) -> str:
    """An SVG with one step line per setting, cases on a logarithmic axis."""
    settings = curves(data)
    total, most = len(settings["the suite"]), data["cases"]
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(cases: float) -> float:
        return LEFT + across * math.log(cases) / math.log(most)

    def y(part: float) -> float:
        return TOP + down * (1 - part)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for percent in range(0, 101, 20):
        lines.append(f'<path d="M{LEFT} {y(percent / 100):.1f}h{across}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y(percent / 100) + 4:.1f}" text-anchor="end">{percent} %</text>')
    for cases in (1, 2, 5, 10, 20, 50, 100, most):
        lines.append(f'<text x="{x(cases):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{cases}</text>')
    lines.append(
        f'<text x="{LEFT + across / 2}" y="{HEIGHT - 10}" text-anchor="middle">cases drawn of a clause</text>'
    )
    lines.append(f'<text x="{LEFT}" y="18">planted bugs caught, of {total}</text>')
    ranked = sorted(settings.items(), key=lambda item: -_caught(item[1]))
    for colour, (name, values) in zip(COLOURS, ranked, strict=False):
        path = f"M{x(1):.1f} {y(0):.1f}"
        for caught, value in enumerate(sorted(value for value in values if value < math.inf), 1):
            path += f"H{x(value):.1f}V{y(caught / total):.1f}"
        width = 2.5 if name == "the suite" else 1.5
        lines.append(f'<path d="{path}H{x(most):.1f}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
    for row, (colour, (name, values)) in enumerate(zip(COLOURS, ranked, strict=False)):
        at = TOP + 16 * row + 8
        label = escape(f"{name}: {_caught(values)}")
        lines.append(f'<path d="M{WIDTH - RIGHT + 10} {at}h16" stroke="{colour}" stroke-width="3"/>')
        lines.append(f'<text x="{WIDTH - RIGHT + 32}" y="{at + 4}" font-size="10">{label}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _or_inf(cases: float, most: int) -> float:
    return cases if cases <= most else math.inf


def _caught(values: list[float]) -> int:
    return sum(value < math.inf for value in values)
