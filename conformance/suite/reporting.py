"""What a run collects on the process that prints, from the header to the ending.

What a shard found rides on its test report, so it survives the death of the worker that ran it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from conformance.contract import CONTRACT, CONTRACT_VERSION
from conformance.judging.verdicts import ClauseResult, summed
from conformance.suite.options import Options
from conformance.suite.parts import PLACE, Coverage, Part
from conformance.suite.quiet import RESULT_PROPERTY, wants_detail
from conformance.suite.screen import Ending, Known, conclusion
from conformance.suite.tables import detailed
from conformance.test_files.handover import Handed

RESULTS_FORMAT = 1
ClauseOf = Callable[[str], str | None]  # the clause of a test, by its node id


class ConformanceReport:
    """Collects every shard's result on the process that prints."""

    def __init__(self, options: Options, identity: Mapping[str, str], clause_of: ClauseOf) -> None:
        self.options = options
        self._clause_of = clause_of
        self.identity = identity
        self.results: list[ClauseResult] = []
        self.coverage = Coverage(options.part or Part())
        self.notes: list[str] = []  # what else the header says
        self.known: Known | None = None
        self.handed: list[Handed] = []
        self.written: list[str] = []  # what else the run leaves behind, by name

    def header(self) -> list[str]:
        """Identity of what is tested, and every option."""
        options = self.options
        return [
            "conformance: " + ", ".join(f"{name} {value}" for name, value in self.identity.items()),
            f"conformance: profile {options.profile} ({options.max_examples} cases a clause), "
            f"shards {options.shards}, engine {options.engine}, device {options.device}, seed {options.seed}"
            + (f", part {options.part}" if options.part else ""),
            *self.notes,
        ]

    def pytest_report_header(self) -> list[str]:
        return self.header()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found, place = (dict(report.user_properties).get(name) for name in (RESULT_PROPERTY, PLACE))
        if report.when == "call" and isinstance(place, list):
            self.coverage.add(place)
        if report.when == "call" and isinstance(found, dict):
            self.results.append(ClauseResult.from_dict(found))
            return
        clause = self._clause_of(report.nodeid) if report.failed else None
        if clause is not None:
            # The test ended without a result: its worker died, or the harness failed around it.
            self.results.append(ClauseResult(clause, errors=[str(report.longrepr).strip().splitlines()[-1]]))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.options.results is not None:
            results = {clause: result.to_dict() for clause, result in self.totals().items()}
            document = {
                "format_version": RESULTS_FORMAT,
                "contract_version": CONTRACT_VERSION,
                "identity": dict(self.identity),
                "run": self.run(),
                "conclusion": conclusion(self.totals()),
                "clauses": results,
            }
            write_json(self.options.results, document)

    def run(self) -> dict[str, Any]:
        """What the run drew and how much of it, as data; ``part`` is None for a whole run."""
        options = self.options
        return {
            "seed": options.seed,
            "profile": options.profile,
            "cases_per_clause": options.max_examples,
            "shards": options.shards,
            "engine": options.engine,
            "device": options.device,
            "part": self.coverage.to_dict() if options.part else None,
        }

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
    ) -> None:
        totals = self.totals()
        if not totals:
            return
        part = str(self.options.part) if self.options.part else ""
        files = Counter(one.state.value for one in self.handed)
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        ending = Ending(totals, self.options.regressions, self.known, files, interrupted, part)
        lines = ending.lines()
        if wants_detail(config):
            terminalreporter.section("conformance")
            lines = chain(detailed(totals), map(str, self.handed), ending.verdict())
        for line in chain(lines, self.written):
            terminalreporter.write_line(line)

    def totals(self) -> dict[str, ClauseResult]:
        """The results by clause, in the order of the contract."""
        totals = summed(self.results)
        return {clause: totals[clause] for clause in CONTRACT if clause in totals}


def read_json(file: Path, error: type[Exception], what: str = "JSON") -> Any:
    """What a document holds; an ``error`` says that it cannot be read, or is not ``what`` it should be."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as cause:
        raise error(f"{file} cannot be read: {cause.strerror}") from cause
    except ValueError as cause:
        raise error(f"{file} is no {what}: {cause}") from cause


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a document as certificates are written."""
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
