"""Texts that differ in numbers which count up, as those of layers and experts do, are one text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\d+")


def folded(texts: Sequence[str]) -> list[str]:
    """``texts`` with each run of alike ones as one: ``layers.0.q``, ``layers.1.q`` give ``layers.{0:2}.q``.

    Alike are those whose numbers are the same, or all count up by one from text to text; they need not be neighbours.
    """
    groups: dict[str, list[list[int]]] = {}
    runs: list[tuple[str, list[list[int]]]] = []
    for text in texts:
        skeleton, numbers = _NUMBER.sub("\0", text), [int(one) for one in _NUMBER.findall(text)]
        run = groups.get(skeleton)
        if run is None or not _follows(run, numbers):
            run = []
            groups[skeleton] = run
            runs.append((skeleton, run))
        run.append(numbers)
    return [_written(skeleton, run) for skeleton, run in runs]


def _follows(run: Sequence[Sequence[int]], numbers: Sequence[int]) -> bool:
    steps = [new - old for old, new in zip(run[-1], numbers, strict=True)]
    before = [new - old for old, new in zip(run[-2], run[-1], strict=True)] if len(run) > 1 else steps
    return steps == before and set(steps) <= {0, 1}


def _written(skeleton: str, run: Sequence[Sequence[int]]) -> str:
    parts = skeleton.split("\0")
    counted = (
        str(first) if first == last else f"{{{first}:{last + 1}}}" for first, last in zip(run[0], run[-1], strict=True)
    )
    return parts[0] + "".join(number + rest for number, rest in zip(counted, parts[1:], strict=True))
