"""The clause tests as what checks which clause: for whoever runs one without pytest."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Protocol

import conformance
from conformance.contract import CONTRACT
from conformance.search.bodies import Body
from conformance.search.drawing import Source


class UnknownClause(ValueError):
    """A clause that no test of this release checks."""

    def __init__(self, clause: str) -> None:
        super().__init__(f"no test checks clause {clause!r}; the contract has {', '.join(CONTRACT)}")


class ClauseTest(Protocol):
    """What `conformance.suite.clauses.check` makes."""

    clause: str
    body: Body
    strategy: Source


@cache
def _all_tests(*, models: bool) -> dict[str, tuple[ClauseTest, ...]]:
    """Of whole models, or of all else: the former take libraries that the others do without."""
    found: dict[str, tuple[ClauseTest, ...]] = {}
    for path in sorted(Path(conformance.__file__).parent.glob("test_*.py")):
        if (path.stem == "test_models") is not models:
            continue
        for test in vars(importlib.import_module(f"conformance.{path.stem}")).values():
            clause, body = getattr(test, "clause", None), getattr(test, "body", None)
            if isinstance(clause, str) and callable(body):
                found[clause] = (*found.get(clause, ()), test)
    return found


def checks_of(clause: str) -> tuple[ClauseTest, ...]:
    """The tests of ``clause``.

    Raises:
        UnknownClause: there is none.
    """
    try:
        return _all_tests(models=clause.startswith("MODEL-"))[clause]
    except KeyError:
        raise UnknownClause(clause) from None


def bodies_of(clause: str) -> tuple[Body, ...]:
    """The bodies of the tests of ``clause``; raises what `checks_of` does."""
    return tuple(test.body for test in checks_of(clause))


def clause_of(nodeid: str) -> str | None:
    """The clause of a test, by its node id alone: the report of a dead worker has nothing else."""
    path, _, rest = nodeid.partition("::")
    try:
        module = importlib.import_module(f"conformance.{Path(path).stem}")
    except ImportError:
        return None
    return getattr(getattr(module, rest.partition("[")[0], None), "clause", None)
