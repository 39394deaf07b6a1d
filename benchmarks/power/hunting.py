"""Hunts: one planted bug against one clause, until the first case that shows it."""

from __future__ import annotations

import importlib
import inspect
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis.strategies import SearchStrategy

from conformance import test_merging
from conformance.contract import CONTRACT
from conformance.engines.threads import WATCHDOG_SECONDS, ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.measuring import measuring
from conformance.judging.verdicts import ClauseResult, Violation
from conformance.regressions.recorder import Recorder
from conformance.regressions.store import Store
from conformance.search.bodies import Body
from conformance.subjects.outcomes import HarnessError
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from conformance.values.linear import part_sizes
from strategies.cases import Case
from strategies.codec import Spec
from tests.mutants.planting import Mutant

CASES = 250  # what the default profile gives a clause
# In the order in which pytest collects them.
MODULES = (
    "test_collectives",
    "test_dense_math",
    "test_embeddings",
    "test_experts",
    "test_lifecycle",
    "test_quantization",
    "test_targets",
    "test_unwrapping",
    "test_warmup_rank",
    "test_wrapping",
)
Patch = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class ClauseTest:
    """A clause with its property."""

    clause: str
    name: str
    strategy: SearchStrategy[Any]
    body: Body


@dataclass(frozen=True, slots=True)
class Catch:
    """The first case that showed a bug: how many had been drawn, in how many seconds, and what it was called."""

    test: ClauseTest
    cases: int
    seconds: float
    anomaly: str


class _Found(BaseException):
    """Ends a hunt through Hypothesis, which would go on to shrink."""


@cache
def suite_tests() -> tuple[ClauseTest, ...]:
    """The suite's tests in file order; a clause may have several."""
    return tuple(
        ClauseTest(test.clause, test.__name__, test.strategy, test.body)
        for module in MODULES
        for test in vars(importlib.import_module(f"conformance.{module}")).values()
        if inspect.isfunction(test) and getattr(test, "clause", None) in CONTRACT
    )


@cache
def clause_tests() -> dict[str, ClauseTest]:
    """The first test of every clause."""
    return {test.clause: test for test in reversed(suite_tests())}


def properties_of(clause: str) -> list[ClauseTest]:
    """The tests of a clause; those of merging too, which are no part of what the reference is measured by."""
    merging: Any = test_merging.test_merged_weights_give_what_they_should_and_can_be_unmerged
    merged = ClauseTest(merging.clause, merging.__name__, merging.strategy, merging.body)
    return [test for test in (*suite_tests(), merged) if test.clause == clause]


def noticing(mutant: Mutant) -> list[ClauseTest]:
    """The tests of the clauses that are said to notice a planted bug, the most direct clause first."""
    return [test for clause in mutant.clauses for test in suite_tests() if test.clause == clause]


def reference_subject(watchdog_seconds: float = WATCHDOG_SECONDS) -> Subject:
    """The reference implementation on threads."""
    return Subject(ReferenceImplementation(), ThreadsEngine(watchdog_seconds))


def hunt(
    test: ClauseTest,
    subject: Subject,
    *,
    seed: int,
    patch: Patch = nullcontext,
    cases: int = CASES,
    change: Callable[[Case], Case] = lambda case: case,
    errors: bool = False,
    targeted: bool = False,
    named: bool = True,
) -> Catch | None:
    """The first case of ``test`` that fails while ``patch`` is alive; None where ``cases`` show nothing.

    As in the suite, a case counts only if what its clause presumes is served. ``change`` alters every case drawn. With
    ``errors``, for a bug that makes a rank hang or the base layer fail, the suite's verdict `error` is a catch.
    ``targeted`` has Hypothesis look for cases whose error comes near to its bound. Unless it is to be ``named``, which
    may take longer than the hunt, a catch has no anomaly.
    """
    drawn = 0
    started = time.perf_counter()
    caught: list[Catch] = []

    def body(subject: Subject, case: Any) -> None:
        nonlocal drawn
        drawn += 1
        try:
            with measuring() as measure:
                test.body(subject, change(case) if isinstance(case, Case) else case)
        except (Violation, HarnessError) as found:
            try:
                if isinstance(found, HarnessError):
                    raise
                run.require_blame(found)
                anomaly = found.anomaly if named else ""
            except HarnessError:
                if not errors:
                    raise
                anomaly = "error"
            caught.append(Catch(test, drawn, time.perf_counter() - started, anomaly))
            raise _Found from found
        if targeted:
            hypothesis.target(min(measure.worst, 1.0))

    run = ClauseRun(subject, Budget(cases, seed))
    with patch():
        try:
            run.check(test.clause, test.name, test.strategy, body)
        except _Found:
            return caught[0]
    return None


def shrunk(test: ClauseTest, subject: Subject, *, seed: int, patch: Patch = nullcontext) -> ClauseResult:
    """What the suite reports of the clause while ``patch`` is alive, shrunk and named as it does."""
    with tempfile.TemporaryDirectory() as folder, patch():
        recorder = Recorder(Store(Path(folder)), "reference", subject.implementation.identity())
        run = ClauseRun(subject, Budget(CASES, seed), recorder=recorder)
        return run.check(test.clause, test.name, test.strategy, test.body)


def elements(case: Spec) -> int | None:
    """How many numbers a case holds: its weights, biases, adapters and inputs; None where it is no single layer."""
    if not isinstance(case, Case):
        return None
    layer = case.layer
    rows, width = sum(layer.output_sizes), layer.input_size
    total = rows * width + layer.bias * rows + len(case.tokens) * width
    for adapter in case.adapters:
        present = (True,) if adapter.fused else adapter.present
        for here, size in zip(present, part_sizes(case, adapter), strict=True):
            total += here * adapter.rank * (width + size)
    return total
