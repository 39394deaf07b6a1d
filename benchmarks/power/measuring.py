"""One planted bug, measured: how soon it is caught, its name and the size of its case, and which ideas catch it.

Each is a row of its own, so that one can be measured again without the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.power.ablations import ABLATIONS, Ablation
from benchmarks.power.hunting import (
    CASES,
    Catch,
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
from tests.mutants.planting import Mutant

Row = dict[str, Any]
Measure = Callable[[Mutant, range], Row]


def hunted(mutant: Mutant, seeds: range) -> Row:
    """What every seed's hunts find.

    ``cases`` has, for each seed, what the soonest clause drew, 0 where none caught the bug; ``in_order`` what the
    whole suite did in file order, ``names`` what the first failing case is called.
    """
    subject = subject_for(mutant)
    caught = [_soonest(mutant, subject, seed, ABLATIONS[0]) for seed in seeds]
    found = [one for one in caught if one is not None]
    return {
        "clause": found[0].test.clause if found else "",
        "cases": [one.cases if one else 0 for one in caught],
        "in_order": [_in_order(mutant, subject, seed) for seed, one in zip(seeds, caught, strict=True) if one],
        "seconds": [one.seconds for one in found],
        "names": [one.anomaly for one in found],
    }


def named(mutant: Mutant, seeds: range) -> Row:
    """What the suite reports of the bug at the first seed, shrunk and named as it does.

    Every shrunk case is given to the reference without the bug, which must be right: ``alarms`` are those where it is
    called wrong, of ``replayed`` ones.
    """
    subject = subject_for(mutant)
    caught = _soonest(mutant, subject, seeds[0], ABLATIONS[0])
    if caught is None:
        return {"reported": [], "elements": None, "shown": "", "replayed": 0, "alarms": []}
    result = shrunk(caught.test, subject, seed=seeds[0], patch=mutant.patch)
    failures = sorted(result.failures, key=lambda failure: (failure.anomaly == "unexplained", len(failure.shown)))
    specs = [Entry(one.case, one.shown, ()).spec() for one in failures]
    wrong = [violation_of(subject, caught.test.body, spec) for spec in specs]
    first = dict(failures[0].case) if failures else {}
    plain = first.pop("kind", "") == "case"
    return {
        "reported": list(dict.fromkeys(one.anomaly for one in failures)) + ["error"] * bool(result.errors),
        "elements": elements(from_dict(first, Case)) if plain else None,
        "shown": failures[0].shown if failures else "",
        "replayed": len(specs),
        "alarms": [str(one) for one in wrong if one is not None],
    }


def without_ideas(mutant: Mutant, seeds: range) -> Row:
    """The cases drawn up to the first failure with each of the suite's ideas switched off; 0 where there is none."""
    subject = subject_for(mutant)
    caught = {one.name: _soonest(mutant, subject, seeds[0], one) for one in ABLATIONS[1:]}
    return {"without": {name: one.cases if one else 0 for name, one in caught.items()}}


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


def by_mutant(rows: Iterable[Row]) -> dict[str, Row]:
    """Rows by the name of their bug."""
    return {row["mutant"]: row for row in rows}
