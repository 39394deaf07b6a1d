"""Hunts for bugs planted in vLLM between adapter file and model class, on the model types that they show on.

Only a case that vLLM serves rightly without a bug can show it; a clause begins with the cases that its target has
before any is drawn, as in the suite.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from statistics import median
from typing import Any

import pytest
from hypothesis import Phase

from benchmarks.power.engines import Caught, broken
from conformance.certification.clause_tests import checks_of
from conformance.certification.models import draws_of
from conformance.engines.threads import ThreadsEngine
from conformance.search.drawing import draw_cases
from conformance.subjects.models.observing import chains, server_of
from conformance.subjects.models.types import resolve
from conformance.subjects.outcomes import NotApplicable
from conformance.subjects.subject import Subject
from strategies.codec import Spec
from strategies.models.cases import ModelDraws, targeting_model
from strategies.models.plain_cases import plain_cases

CASES = 20  # drawn of a clause, as an atlas does
_MODULES = (
    *("planted", "planted_beside_language", "planted_in_company", "planted_in_deployments"),
    *("planted_in_forwards", "planted_in_names"),
)


@cache
def planted() -> dict[str, Any]:
    """The bugs by name; what they are planted in is imported with them."""
    for module in _MODULES:
        importlib.import_module(f"tests.models.{module}")
    found: dict[str, Any] = importlib.import_module("tests.models.planted").PLANTED
    return found


@cache
def vllm_subject() -> Subject:
    """vLLM on threads."""
    implementation = importlib.import_module("conformance.implementations.vllm").VllmImplementation()
    implementation.layers.prepare()
    implementation.models.prepare()
    return Subject(implementation, ThreadsEngine())


@cache
def draws(target: str) -> ModelDraws:
    """How cases of a model are drawn."""
    found, subject = resolve(target), vllm_subject()
    return draws_of(target, found, subject.implementation.dtypes("cpu"), server_of(subject))


def first_shown(name: str, *, seed: int, cases: int = CASES) -> tuple[int, str] | None:
    """The first case that vLLM serves rightly without the bug and not with it: the how-manieth, what it is called."""
    bug, seen = planted()[name], 0
    (test,) = checks_of(bug.clause)

    def judge(case: Spec) -> None:
        nonlocal seen
        seen += 1
        if _broken(test, case) is None:
            with pytest.MonkeyPatch.context() as monkey:
                bug.plant(monkey)
                found = _broken(test, case)
            chains.cache_clear()  # which remember what was read with the bug
            if found is not None:
                raise Caught(found)

    target = draws(bug.case.target)
    try:
        for case in plain_cases(target):
            judge(case)
        with targeting_model(target):
            draw_cases(test.strategy, judge, examples=cases, seed=seed, phases=(Phase.generate,))
    except Caught as caught:
        return seen, caught.anomaly
    return None


def _broken(test: Any, case: Spec) -> str | None:
    try:
        return broken(test, case, vllm_subject())
    except NotApplicable:
        return None


def seam_row(index: int, *, seeds: int) -> dict[str, Any]:
    """One bug: for each seed how many cases its clause needed, 0 where none showed it, and what the case is called."""
    name = list(planted())[index]
    bug = planted()[name]
    found = [first_shown(name, seed=seed) or (0, "") for seed in range(seeds)]
    told = {"mutant": name, "clause": bug.clause, "anomaly": bug.anomaly, "target": bug.case.target}
    return {**told, "cases": [cases for cases, _ in found], "names": [anomaly for _, anomaly in found]}


def seam_section(data: dict[str, Any]) -> Iterator[str]:
    """The section of the page, where it was measured."""
    if "seam" not in data:
        return
    commits = ", ".join(sorted({row["commit"] for row in data["seam"]}))
    yield from ["", "## Between adapter file and model", ""]
    yield (
        "Bugs planted in vLLM (`tests/models/planted*.py`), each on a type and with an adapter that shows it, in "
        "a test. Here its clause is asked of the type as the suite does: the cases that every clause begins "
        f"with, then {CASES} drawn ones. Only a case that vLLM serves rightly without the bug counts. Measured by "
        f"commit {commits}, of {len(data['seam'])} bugs; those left out were not measured."
    )
    yield from ["", "| bug | type | clause | seeds that catch it | median cases | called |", f"|{'---|' * 6}"]
    for row in data["seam"]:
        caught = [count for count in row["cases"] if count]
        middle = f"{median(caught):g}" if caught else "–"
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(row["names"]) if name) or "–"
        seeds = f"{len(caught)} of {len(row['cases'])}"
        yield f"| `{row['mutant']}` | {row['target']} | {row['clause']} | {seeds} | {middle} | {names} |"
