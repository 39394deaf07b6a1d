"""Runs of a clause that stand in for a model's: a deed on the way, then a case that passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from conformance.certification.apart import Apart
from conformance.certification.clause_tests import checks_of
from conformance.judging.verdicts import ClauseResult, Verdict
from conformance.search.bodies import Body
from conformance.search.drawing import Source
from conformance.suite.budget import Budget

Deed = Callable[[], object]
BUDGET = Budget(1, 0)


@dataclass(frozen=True, slots=True)
class Passes:
    """Stands in for the run of a clause."""

    deed: Deed

    def check(self, clause: str, name: str, source: Source, body: Body) -> ClauseResult:
        self.deed()
        result = ClauseResult(clause, target="model")
        result.counts[Verdict.PASS.value] = 1
        return result


def ask(apart: Apart, path: str, deed: Deed, clause: str = "MODEL-1") -> ClauseResult:
    (test,) = checks_of(clause)
    return apart.run(path, lambda budget: Passes(deed), (clause, test.body.__name__, BUDGET))
