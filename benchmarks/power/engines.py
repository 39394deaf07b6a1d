"""Hunts for bugs planted in PEFT's own layers, where only what PEFT does rightly without them can show them.

They measure the clauses that the reference has nothing for: it merges no adapters (MATH-18).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from statistics import median
from typing import Any

from hypothesis import Phase

from benchmarks.power.hunting import CASES, ClauseTest, properties_of
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.peft import PeftImplementation
from conformance.judging.verdicts import Violation
from conformance.search.drawing import draw_cases
from conformance.subjects.outcomes import NotExercised, NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from strategies.codec import Spec
from tests.mutants.peft_planted import PEFT_MUTANTS
from tests.mutants.planting import Mutant


class Caught(BaseException):
    """Ends a hunt."""

    def __init__(self, anomaly: str) -> None:
        self.anomaly = anomaly


@cache
def peft_subject() -> Subject:
    """PEFT on threads."""
    return Subject(PeftImplementation(), ThreadsEngine())


def first_shown(test: ClauseTest, mutant: Mutant, *, seed: int, cases: int = CASES) -> tuple[int, str] | None:
    """The first case that PEFT serves rightly without the bug and not with it: how many were drawn, what it is called.

    A case that PEFT has no way to serve, or fails by itself, counts as drawn.
    """
    peft, drawn = peft_subject(), 0

    def judge(spec: Spec) -> None:
        nonlocal drawn
        drawn += 1
        case = peft.fitted(spec)
        if broken(test, case, peft) is None:
            with mutant.patch():
                found = broken(test, case, peft)
            if found is not None:
                raise Caught(found)

    try:
        draw_cases(test.strategy, judge, examples=cases, seed=seed, phases=(Phase.generate,))
    except Caught as caught:
        return drawn, caught.anomaly
    return None


def broken(test: ClauseTest, case: Spec, subject: Subject) -> str | None:
    """How the case breaks the clause, if it does."""
    try:
        test.body(subject, case)
    except Violation as found:
        return found.anomaly
    except (NotExercised, NotWrapped, SubjectRefused):
        pass
    return None


def peft_row(index: int, *, seeds: int) -> dict[str, Any]:
    """One bug: for each seed what the soonest clause drew, 0 where none caught it, and what the case is called."""
    mutant, cases, names = PEFT_MUTANTS[index], [], []
    for seed in range(seeds):
        tests = [test for clause in mutant.clauses for test in properties_of(clause)]
        found = [one for test in tests if (one := first_shown(test, mutant, seed=seed)) is not None]
        soonest = min(found, default=(0, ""))
        cases.append(soonest[0])
        names.append(soonest[1])
    return {"mutant": mutant.name, "clauses": list(mutant.clauses), "cases": cases, "names": names}


def peft_section(data: dict[str, Any]) -> Iterator[str]:
    """The section of the page, where it was measured."""
    if "peft" not in data:
        return
    right = {mutant.name: mutant.anomalies for mutant in PEFT_MUTANTS}
    yield from ["", "## In PEFT's own layers", ""]
    yield (
        "Bugs planted in PEFT (`tests/mutants/peft_planted.py`), as the reference merges no adapters: MATH-18 is "
        "measured here. Only a case that PEFT without the bug serves rightly can show it. Measured by commit "
        f"{data['made']['peft']['commit']}."
    )
    yield from ["", "| bug | clauses | seeds that catch it | median cases | called rightly |", "|---|---|---|---|---|"]
    for row in data["peft"]:
        caught = [count for count in row["cases"] if count]
        named = sum(name in right[row["mutant"]] for name in row["names"])
        middle = f"{median(caught):g}" if caught else "–"
        yield (
            f"| `{row['mutant']}` | {' '.join(row['clauses'])} | {len(caught)} of {len(row['cases'])} | {middle} | "
            f"{named} of {len(caught)} |"
        )
