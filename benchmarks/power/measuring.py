"""One planted bug, measured: how soon it is caught, what it is called, and how small its case becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.power.ablations import ABLATIONS, Ablation
from benchmarks.power.hunting import (
    CASES,
    Catch,
    ClauseTest,
    elements,
    hunt,
    noticing,
    reference_subject,
    shrunk,
    suite_tests,
)
from conformance.regressions.entries import Entry
from conformance.search.bodies import violation_of
from conformance.subjects.subject import Subject
from strategies.cases import Case
from strategies.codec import from_dict
from tests.mutants import MUTANTS as OF_LAYERS
from tests.mutants import Mutant


@dataclass(slots=True)
class Measurement:
    """What was found of one mutant.

    ``cases`` has, for each seed, what its soonest clause drew; 0 where none caught it. ``without`` has the same for
    each idea switched off, at the first seed; the settings are about layers, so it is empty for other bugs.
    """

    mutant: str
    clause: str = ""
    cases: list[int] = field(default_factory=list)
    in_order: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first_names: list[str] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    elements: int | None = None
    shown: str = ""
    without: dict[str, int] = field(default_factory=dict)
    alarm: str = ""  # what the reference without the bug is told of the shrunk case; nothing, if it is right

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {name: getattr(self, name) for name in type(self).__slots__}


def measure(mutant: Mutant, seeds: range) -> Measurement:
    """Hunts with every seed, shrinks what the first found, and hunts with each of the suite's ideas switched off."""
    subject = subject_for(mutant)
    found = Measurement(mutant.name)
    test: ClauseTest | None = None
    for seed in seeds:
        caught = _soonest(mutant, subject, seed, ABLATIONS[0])
        found.cases.append(caught.cases if caught else 0)
        if caught is None:
            continue
        test = test or caught.test
        found.in_order.append(_in_order(mutant, subject, seed))
        found.seconds.append(caught.seconds)
        found.first_names.append(caught.anomaly)
    if test is not None:
        found.clause = test.clause
        _shrink(found, test, mutant, subject)
    for ablation in ABLATIONS[1:] if mutant in OF_LAYERS else ():
        caught = _soonest(mutant, subject, seeds[0], ablation)
        found.without[ablation.name] = caught.cases if caught else 0
    return found


def subject_for(mutant: Mutant) -> Subject:
    """The reference; an engine that soon gives up on a rank where one is going to hang."""
    return reference_subject(10.0) if "error" in mutant.anomalies else reference_subject()


def _soonest(mutant: Mutant, subject: Subject, seed: int, ablation: Ablation) -> Catch | None:
    """The catch of the clause that needs fewest cases, of those that are said to notice the mutant."""
    best: Catch | None = None
    with ablation.patch():
        for test in noticing(mutant):
            caught = hunt(
                test, subject, seed=seed, patch=mutant.patch, change=ablation.change,
                errors="error" in mutant.anomalies, targeted=ablation.targeted,
                cases=best.cases if best else CASES,
            )  # fmt: skip
            if caught and (best is None or caught.cases < best.cases):
                best = caught
    return best


def _in_order(mutant: Mutant, subject: Subject, seed: int) -> int:
    """Cases drawn by the whole suite, clause after clause in file order, if only the mutant's clauses notice it."""
    for place, test in enumerate(suite_tests()):
        if test.clause in mutant.clauses:
            caught = hunt(test, subject, seed=seed, patch=mutant.patch, errors="error" in mutant.anomalies)
            if caught:
                return place * CASES + caught.cases
    return 0


def _shrink(found: Measurement, test: ClauseTest, mutant: Mutant, subject: Subject) -> None:
    result = shrunk(test, subject, seed=0, patch=mutant.patch)
    failures = sorted(result.failures, key=lambda failure: (failure.anomaly == "unexplained", len(failure.shown)))
    found.reported = list(dict.fromkeys(failure.anomaly for failure in failures)) + ["error"] * bool(result.errors)
    if not failures:
        return
    shown = Entry(failures[0].case, failures[0].shown, ()).spec()
    wrong = violation_of(subject, test.body, shown)
    found.alarm = str(wrong) if wrong else ""
    data = dict(failures[0].case)
    found.shown = failures[0].shown
    if data.pop("kind") == "case":
        found.elements = elements(from_dict(data, Case))
