"""How far the suite sees: bugs that need more than n of a dimension, for growing n, and how many seeds catch each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.power.hunting import Catch, hunt, reference_subject, suite_tests
from tests.mutants.thresholds import TEMPLATES, Beyond, planted

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


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows as Markdown: a line for each dimension, a bug for each size."""
    yield ""
    yield "## How far the suite sees"
    yield ""
    yield (
        "A bug that needs more than N of a dimension (of tensor parallelism: N ranks or more), and by how many seeds "
        "a default run catches it. One case of eight has a dimension that is large, so what lies beyond the largest "
        "sizes drawn (`strategies/large.py`) is never seen: more than 129 tokens, 9 adapters in a batch, 36 slots, "
        "rank 512, 257 inputs, 129 rows of an output, 8 outputs, 32 ranks."
    )
    yield ""
    yield "| dimension | N: seeds that catch it | clauses asked |"
    yield "|---|---|---|"
    for one in TEMPLATES:
        own = [row for row in rows if row["dimension"] == one.dimension]
        cells = ", ".join(f"{row['size']}: {row['caught']}/{row['seeds']}" for row in own) or "not measured yet"
        yield f"| {one.dimension} | {cells} | {' '.join(one.clauses)} |"
