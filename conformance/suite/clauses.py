"""A clause as a pytest test, made of a body that judges one case and of what draws cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.contract import CONTRACT
from conformance.judging.verdicts import ClauseResult
from conformance.search.bodies import Body
from conformance.search.drawing import Source
from conformance.suite.checking import Checking


def check(clause: str, strategy: Source) -> Callable[[Body], Callable[..., None]]:
    """Makes a pytest test of a clause out of a body that judges one case; cases are drawn from ``strategy``."""
    entry = CONTRACT[clause]

    def decorate(body: Body) -> Callable[..., None]:
        @pytest.mark.clause(clause, id=clause)  # by which -m tells MODEL-1 from MODEL-10
        def test(clause_run: Checking, record_property: Callable[[str, object], None], shard: int) -> None:
            __tracebackhide__ = True
            result = clause_run.check(clause, body.__name__, strategy, body)
            record_property("clause_result", result.to_dict())
            report(result)

        test.__name__ = body.__name__
        test.__doc__ = f"{clause} {entry.level.value} {entry.sentence}"
        test.body, test.strategy, test.clause = body, strategy, clause  # type: ignore[attr-defined]
        return test

    return decorate


def report(result: ClauseResult) -> None:
    """Fails the test for what a clause's shard found."""
    __tracebackhide__ = True
    if result.errors:
        pytest.fail(f"{result.clause} error: " + "; ".join(result.errors), pytrace=False)
    if result.failures:
        text = "\n\n".join(f"[{failure.anomaly}] {failure.message}\n{failure.shown}" for failure in result.failures)
        pytest.fail(f"{result.clause} {CONTRACT[result.clause].sentence}\n{text}", pytrace=False)
