"""How far the suite sees: bugs that need more than n of a dimension, for growing n, and how many seeds catch each.

A bug of size n is alive in cases beyond n only, so no other case is run: what a default run draws is known from the
draws alone, and its cases beyond n are judged, in their order, up to the first that fails. Whole programs are left
out; their layers are small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from benchmarks.power.hunting import CASES, ClauseTest, reference_subject, suite_tests
from conformance.judging.verdicts import Violation
from conformance.search.bodies import violation_of
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from strategies.cases import Case
from strategies.codec import Spec
from strategies.ranks import RankQuestion
from tests.mutants.thresholds import TEMPLATES, Beyond, planted

BUGS = tuple(planted(seen_only=False))


@cache
def drawn(test: ClauseTest, seed: int) -> tuple[Spec, ...]:
    """What a default run draws for one test of a clause."""
    found: list[Spec] = []
    run = ClauseRun(reference_subject(), Budget(CASES, seed))
    run.check(test.clause, test.name, test.strategy, lambda subject, case: found.append(case))
    return tuple(found)


def caught_by(bug: Beyond, seed: int) -> Violation | None:
    """The first failure in a default run of the clauses that are said to notice the bug."""
    subject, template = reference_subject(), bug.template
    tests = [test for clause in template.clauses for test in suite_tests() if test.clause == clause]
    with template.patch(bug.size):
        for test in tests:
            for case in drawn(test, seed):
                if isinstance(case, Case | RankQuestion) and template.largest(case) >= bug.least:
                    found = violation_of(subject, test.body, case, blaming=test.clause)
                    if found is not None:
                        return found
    return None


def sight_of(seed: int) -> list[bool]:
    """Which of the bugs the default run of one seed catches."""
    return [caught_by(bug, seed) is not None for bug in BUGS]


def sight_rows(seeds: Iterable[list[bool]]) -> list[dict[str, Any]]:
    """Of how many seeds a default run catches each bug."""
    return [
        {"dimension": bug.template.dimension, "size": bug.size, "caught": sum(found), "seeds": len(found)}
        for bug, found in zip(BUGS, zip(*seeds, strict=True), strict=True)
    ]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows as Markdown: a line for each dimension, a bug for each size."""
    yield ""
    yield "## How far the suite sees"
    yield ""
    yield (
        "A bug that needs more than N of a dimension (of tensor parallelism: N ranks or more), and by how many seeds "
        "a default run catches it. Such a bug is alive in no other case, so only the cases beyond N are run of those "
        "that the run draws, up to the first that fails. A dimension is large in one case of eight; in MATH-1, which "
        "other clauses presume and which finds what a size alone breaks, in one of three. What lies beyond the "
        "largest sizes drawn (`strategies/large.py`) is never seen: more than 129 tokens, 9 adapters in a batch, 36 "
        "slots, rank 512, 257 inputs, 129 rows of an output, 8 outputs, 33 modules, 32 ranks."
    )
    yield ""
    yield "| dimension | every seed catches it up to N | N: seeds that catch it | clauses asked |"
    yield "|---|---|---|---|"
    for one in TEMPLATES:
        own = [row for row in rows if row["dimension"] == one.dimension]
        cells = ", ".join(f"{row['size']}: {row['caught']}/{row['seeds']}" for row in own)
        yield f"| {one.dimension} | {sure_up_to(own)} | {cells} | {' '.join(one.clauses)} |"


def sure_up_to(rows: list[dict[str, Any]]) -> int:
    """The largest size of one dimension up to which every seed catches every bug; 0 for none."""
    sure = 0
    for row in rows:
        if row["caught"] < row["seeds"]:
            break
        sure = row["size"]
    return sure
