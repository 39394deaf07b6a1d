"""Certification as a pytest plugin: which classes are run, and what their results come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from conformance.certification import certificate, summary
from conformance.certification.baseline import Baseline
from conformance.certification.candidates import Certifying
from conformance.certification.clause_tests import clause_of
from conformance.certification.environment import versions
from conformance.certification.files import write_files
from conformance.certification.outcome import Outcome, concerns, judges_a_layer
from conformance.suite.reporting import ConformanceReport

FIT = "certify_fit"
_RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class CertificationReport(ConformanceReport):
    """Collects the results on the process that prints; writes certificate and report, and decides the exit code."""

    def __init__(self, certification: Certifying) -> None:
        super().__init__(certification.options, {}, clause_of)
        self.certification = certification
        self._outcomes: list[Outcome] = []
        self._complaints: list[str] = []
        self._files: list[str] = []

    def header(self) -> list[str]:
        return [*summary.header(self.certification.subjects, self.options), *self.certification.notes]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = len(self.results)
        super().pytest_runtest_logreport(report)
        for result in self.results[before:]:
            if not result.target:  # the worker died, so the name of the test is all there is
                result.target = target_of(report.nodeid, self.certification.targets)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hands xdist's workers the classes that are fit, so that none of them hangs on the others."""
        node.workerinput[FIT] = list(self.certification.targets)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus not in _RAN:
            return
        certify = self.certification.certify
        baseline = self.certification.baseline
        self._outcomes = self.certification.outcomes(self.results)
        if baseline is not None:
            self._complaints += baseline.complaints(self._outcomes)
        if certify.update_baseline and certify.baseline:
            Baseline.of(self._outcomes, certify.baseline).write()
        self._files = list(write_files(self._outcomes, self.options.regressions, prove=self.options.prove))
        self._write()
        session.exitstatus = self._exit_code()

    def _write(self) -> None:
        certify = self.certification.certify
        if certify.certificate is None and certify.report is None:
            return
        subject = next(iter(self.certification.subjects.values()))
        document = certificate.certificate(self._outcomes, self.run(), versions(subject))
        if certify.certificate is not None:
            certificate.write(document, certify.certificate)
        if certify.report is not None:
            from conformance.certification.report import write_report

            files = self.options.regressions if certify.models else None
            write_report(self._outcomes, document, certify.report, files=files)

    def _exit_code(self) -> int:
        if any(result.errors for outcome in self._outcomes for result in outcome.results.values()):
            return 2
        if self.options.part is not None:  # what one part did not exercise another one may
            return int(any(outcome.unfit or outcome.failures for outcome in self._outcomes))
        return int(not certificate.overall(self._outcomes).ends_well or bool(self._complaints))

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
    ) -> None:
        if not self._outcomes:
            return
        terminalreporter.section("certification")
        for line in summary.screen(self._outcomes):
            terminalreporter.write_line(line)
        for line in self._complaints:
            terminalreporter.write_line(line)
        if self.options.part is not None:
            terminalreporter.write_line(f"part {self.options.part}: the verdict is that of lora-compat merge on all")
        for line in self._files:
            terminalreporter.write_line(line)
        if any(outcome.failures for outcome in self._outcomes):
            terminalreporter.write_line(f"regression tests: {self.options.regressions}")
        certify = self.certification.certify
        for what, file in (("certificate", certify.certificate), ("report", certify.report)):
            if file is not None:
                terminalreporter.write_line(f"{what}: {file}")


def target_of(nodeid: str, targets: Iterable[str]) -> str:
    """The target of a test, by its node id alone; names may be parts of others."""
    parameters = nodeid.partition("[")[2].rstrip("]")
    return next((one for one in targets if parameters.startswith(f"{one}-") or parameters.endswith(f"-{one}")), "")


def deselect_others(config: pytest.Config, items: list[pytest.Item], *, models: bool) -> None:
    """Keeps the tests of clauses whose cases are built of the class, or are of whole models."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        marker = item.get_closest_marker("clause")
        keep = marker is not None and concerns(marker.args[0], model=models) and (models or _judges_a_case(item))
        (kept if keep else dropped).append(item)
    if models:  # one model's clauses after the other, so that its process is started once
        kept.sort(key=_place_of_target)
    items[:] = kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def _place_of_target(item: pytest.Item) -> int:
    callspec: Any = getattr(item, "callspec", None)
    return int(callspec.indices["target"]) if callspec is not None else 0


def _judges_a_case(item: pytest.Item) -> bool:
    body = getattr(getattr(item, "function", None), "body", None)
    return body is not None and judges_a_layer(body)
