"""How far the suite sees: bugs that need more than n of a dimension, for growing n, and how many seeds catch each."""

from __future__ import annotations

from typing import Any

from benchmarks.power.hunting import Catch, hunt, reference_subject, suite_tests
from tests.mutants.thresholds import Beyond, planted

BUGS = tuple(planted(seen_only=False))


def caught_by(bug: Beyond, seed: int) -> Catch | None:
    """The first catch of the clauses that are said to notice the bug, each in a default run's budget."""
    subject = reference_subject()
    for clause in bug.template.clauses:
        for test in suite_tests():
            if test.clause == clause:
                caught = hunt(test, subject, seed=seed, patch=lambda: bug.template.patch(bug.size))
                if caught is not None:
                    return caught
    return None


def sight_row(index: int, *, seeds: int) -> dict[str, Any]:
    """Of how many seeds a default run catches one bug."""
    bug = BUGS[index]
    found = [caught_by(bug, seed) is not None for seed in range(seeds)]
    return {"dimension": bug.template.dimension, "size": bug.size, "caught": sum(found), "seeds": seeds}
