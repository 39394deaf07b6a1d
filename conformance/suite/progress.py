"""How far a run is: the clause at work and the cases done of those to do, on one line that changes.

Where the output is no terminal there is a line each quarter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from conformance.suite.budget import Budget
from conformance.suite.options import Options

_QUARTERS = 4


class Progress:
    """Counts the tests that ended, each of which draws as many cases as a shard does."""

    def __init__(self, config: pytest.Config, options: Options, clause_of: Callable[[str], str | None]) -> None:
        self._config, self._clause_of = config, clause_of
        self._examples = Budget(options.max_examples, options.seed, shards=options.shards).examples
        self._tests = self._done = self._told = 0
        self._at_work: dict[str, None] = {}  # clauses by their tests, in the order in which they began
        self._started = time.perf_counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tests = self._tests or len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self._tests = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._at_work[nodeid] = None
        if self._reporter.isatty:
            self._reporter.rewrite(self.line(), erase=True)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._at_work.pop(nodeid, None)
        self._done += 1
        quarter = math.floor(_QUARTERS * self._done / max(self._tests, 1))
        if not self._reporter.isatty and quarter > self._told:
            self._told = quarter
            self._reporter.write_line(self.line())

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error:
            self._reporter.ensure_newline()
            self._reporter.write_line(f"worker {node.gateway.id} died: {error}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if self._reporter.isatty:
            self._reporter.rewrite("", erase=True)

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def line(self) -> str:
        """``1,250 of 21,000 cases, 0:12, at MATH-1 WRAP-4``."""
        clauses = dict.fromkeys(filter(None, map(self._clause_of, self._at_work)))
        minutes, seconds = divmod(int(time.perf_counter() - self._started), 60)
        told = f"{self._done * self._examples:,} of {self._tests * self._examples:,} cases, {minutes}:{seconds:02}"
        return told + (f", at {' '.join(clauses)}" if clauses else "")
