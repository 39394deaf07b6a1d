"""What the processes of a measurement are given to do."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks.power.ablations import ABLATIONS
from benchmarks.power.alarms import Alarms
from benchmarks.power.hunting import CASES, hunt, reference_subject, suite_tests
from benchmarks.power.measuring import Measure, hunted, named, without_ideas
from benchmarks.power.planted import PLANTED
from tests.mutants.variants import VARIANTS


def single_threaded() -> None:
    """Prepares a process, as the suite prepares its workers."""
    gc.collect()
    gc.freeze()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


MEASURES: dict[str, Measure] = {"hunts": hunted, "names": named, "ideas": without_ideas}


def mutant_row(index: int, *, part: str, seeds: int) -> dict[str, Any]:
    """One part of what is measured of one planted bug."""
    return {"mutant": PLANTED[index].name, **MEASURES[part](PLANTED[index], range(seeds))}


def alarm_row(run: tuple[int | None, int, int, int]) -> dict[str, Any]:
    """One test of one run of a variant, or of the reference, with one seed and so many cases a clause."""
    index, seed, cases, place = run
    name, patch = ("the reference", nullcontext) if index is None else (VARIANTS[index].name, VARIANTS[index].patch)
    if cases != CASES:
        name += f", {cases} cases a clause"
    found = Alarms.over(
        name, reference_subject(), suite_tests()[place : place + 1], seeds=range(seed, seed + 1), cases=cases,
        patch=patch,
    )  # fmt: skip
    return {"run": run, **found.to_dict()}


def setting_row(index: int) -> dict[str, Any]:
    """Which clauses report the reference itself, with an idea of the suite switched off: their catches are void."""
    ablation, subject = ABLATIONS[index], reference_subject()
    with ablation.patch():
        caught = [
            test.clause for test in suite_tests() if hunt(test, subject, seed=0, change=ablation.change) is not None
        ]
    return {"setting": ablation.name, "reported": caught}
