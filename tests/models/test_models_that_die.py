"""A model whose process dies or hangs is an error of that model; the clauses and models after it are run."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from conformance.certification.apart import Apart
from conformance.certification.clause_tests import checks_of
from conformance.judging.verdicts import ClauseResult, Verdict
from conformance.search.bodies import Body
from conformance.search.drawing import Source
from conformance.suite.budget import Budget

BUDGET = Budget(1, 0)


@dataclass(frozen=True, slots=True)
class Planted:
    """Stands in for the run of a clause, which does something fatal on the way."""

    deed: Callable[[], object]

    def check(self, clause: str, name: str, source: Source, body: Body) -> ClauseResult:
        self.deed()
        result = ClauseResult(clause, target="model")
        result.counts[Verdict.PASS.value] = 1
        return result


def ask(apart: Apart, path: str, deed: Callable[[], object], clause: str = "MODEL-1") -> ClauseResult:
    (test,) = checks_of(clause)
    return apart.run(path, lambda budget: Planted(deed), (clause, test.body.__name__, BUDGET))


def hang() -> None:
    time.sleep(600)


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (lambda: os._exit(3), "the process ended with exit code 3"),
        (lambda: ctypes.string_at(0), "the process was ended by SIGSEGV, in File"),
        (hang, "a case hung: Timeout (0:00:01)!, in File"),
    ],
    ids=["exit", "segfault", "hang"],
)
def test_a_death_is_an_error_of_its_model_and_the_next_one_is_run(deed: Callable[[], object], said: str) -> None:
    apart = Apart(seconds=1.0 if deed is hang else 600.0)
    dead = ask(apart, "deadly", deed)
    assert dead.verdict is Verdict.ERROR
    assert dead.target == "deadly"
    assert dead.errors[0].startswith(said)
    assert ask(apart, "harmless", lambda: None).verdict is Verdict.PASS
    assert ask(apart, "deadly", lambda: None, "MODEL-2").verdict is Verdict.PASS
    apart.stop()
