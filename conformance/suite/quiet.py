"""The terminal is the suite's own: pytest's report of tests gives way to one of clauses, unless ``-v`` asks for it."""

from __future__ import annotations

import textwrap
from typing import Any, Protocol

import pytest

from conformance.suite.screen import WIDTH

RESULT_PROPERTY = "clause_result"  # what rides on the report of a clause's test


class Heading(Protocol):
    """Who knows what the run is about."""

    def header(self) -> list[str]: ...


def wants_detail(config: pytest.Config) -> bool:
    """Whether pytest reports as it always does: with ``-v``, and where nothing is run."""
    return bool(config.getoption("verbose") > 0 or config.getoption("collectonly"))


def quieten(config: pytest.Config) -> None:
    """Tells pytest to print nothing but what breaks the run itself. Before its own reporter reads the options."""
    config.option.verbose = -2
    config.option.tbstyle = "no"
    config.option.reportchars = "N"
    config.option.disable_warnings = True
    config.option.showcapture = "no"


class Quiet:
    """Takes the letters of tests away; shows the header, and failures that are no clause's, which no table has."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        distributed: Any = session.config.pluginmanager.get_plugin("dsession")
        if distributed is not None:
            distributed.terminal = None  # xdist says what its nodes do, `Progress` what the run does
            session.config.pluginmanager.unregister(name="terminaldistreporter")
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        for line in self._heading.header():
            reporter.write_line(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False))
        reporter.write_line("")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str] | None:
        counted = report.when == "call" or report.failed or report.skipped
        return (report.outcome if counted else "", "", "") if isinstance(report, pytest.TestReport) else None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        alike: dict[str, list[Any]] = {}
        for report in [*terminalreporter.stats.get("error", []), *terminalreporter.stats.get("failed", [])]:
            dead = isinstance(report.longrepr, str)  # a worker's last words, which are its clause's error
            if not dead and RESULT_PROPERTY not in dict(getattr(report, "user_properties", ())):
                crash = getattr(report.longrepr, "reprcrash", None)
                alike.setdefault(str(crash or report.longreprtext), []).append(report)
        for first, *others in alike.values():
            more = f" and {len(others)} more" if others else ""
            terminalreporter.write_line(f"{first.nodeid}{more}:")
            terminalreporter.write_line(first.longreprtext)
