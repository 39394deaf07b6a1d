"""Certification as a pytest plugin: which classes are run, and what their results come to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from conformance.certification import certificate, summary
from conformance.certification.baseline import Baseline, BaselineError
from conformance.certification.environment import versions
from conformance.certification.options import CertifyOptions
from conformance.certification.outcome import Conclusion, Outcome, complete, concerns_a_class, judges_a_layer
from conformance.certification.probing import Prober
from conformance.certification.recipes import RecipeNotFoundError
from conformance.certification.subjects import Found, SubjectError, find, mentions_vllm
from conformance.checking import Budget, ClauseRun
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.protocol import MissingPrerequisite
from conformance.options import Options, engine_of, implementation_of
from conformance.reporting import ConformanceReport
from conformance.subject import Subject
from conformance.verdicts import ClauseResult
from strategies.existing import Target
from strategies.source import Library

# A class that hangs costs this once; a forward of these sizes takes a millisecond.
WATCHDOG_SECONDS = 10.0
FIT = "certify_fit"
_RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


@dataclass(slots=True)
class Certification:
    """The classes of a run, each on the implementation that wraps it."""

    options: Options
    certify: CertifyOptions
    found: dict[str, Found] = field(default_factory=dict)
    subjects: dict[str, Subject] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    unfit: dict[str, SubjectError] = field(default_factory=dict)
    _by_library: dict[Library, Subject] = field(default_factory=dict)

    def prepare(self, fit: list[str] | None = None) -> None:
        """Finds the classes and probes them; a worker probes those only that the controller found ``fit``.

        Raises:
            pytest.UsageError: a class that was named by itself cannot be certified.
        """
        for given in self.certify.targets:
            if mentions_vllm(given):
                _prepare_vllm()  # which must come before the first import of vLLM
            try:
                found = find(given, self.certify.recipe)
            except SubjectError as error:
                raise pytest.UsageError(f"{error.title}: {error}") from None
            for one in found:
                if fit is None or one.path in fit:
                    self._probe(one, alone=":" in given)

    def clause_run(self, path: str, budget: Budget) -> ClauseRun:
        """Runs clauses on the class at ``path``."""
        return ClauseRun(self.subjects[path], budget, target=self.targets[path])

    def _probe(self, found: Found, *, alone: bool) -> None:
        subject = self._subject_for(found)
        self.found[found.path], self.subjects[found.path] = found, subject
        try:
            prober = Prober(found, replace(subject, engine=ThreadsEngine(WATCHDOG_SECONDS)))
            self.targets[found.path] = prober.target()
        except RecipeNotFoundError as error:
            raise pytest.UsageError(str(error)) from None
        except SubjectError as error:
            self.unfit[found.path] = error
            if alone and error.is_usage:
                raise pytest.UsageError(f"{error.title}: {error}") from None

    def impl_of(self, found: Found) -> str:
        """vLLM wraps what derives from its layers, the reference the rest, unless ``--impl`` says otherwise."""
        return self.options.impl or ("vllm" if found.library is Library.VLLM else "reference")

    def _subject_for(self, found: Found) -> Subject:
        if found.library not in self._by_library:
            impl, layers = self.impl_of(found), found.library.value
            if impl == "vllm" and found.library is not Library.VLLM:
                raise pytest.UsageError(f"--impl vllm cannot wrap {found.path}: it derives from none of vLLM's layers")
            implementation = implementation_of(replace(self.options, impl=impl, layers=layers))
            threads = self.options.engine == "threads"
            engine = ThreadsEngine(WATCHDOG_SECONDS) if threads else engine_of(self.options)
            self._by_library[found.library] = Subject(implementation, engine, self.options.device)
        return self._by_library[found.library]

    def outcomes(self, results: list[ClauseResult], baseline: Baseline | None) -> list[Outcome]:
        """What became of every class."""
        outcomes = []
        for path, found in self.found.items():
            outcome = Outcome(path, self.targets.get(path), self.impl_of(found), found.library.value)
            outcome.unfit = self.unfit.get(path)
            if outcome.unfit is None:
                outcome.results = complete(results, path)
            if baseline is not None:
                outcome.known = baseline.known(path)
            outcomes.append(outcome)
        return outcomes


def _prepare_vllm() -> None:
    from conformance.implementations.vllm_layers import VllmLayers

    try:
        VllmLayers().prepare()
    except MissingPrerequisite as error:
        raise pytest.UsageError(str(error)) from None


class CertificationReport(ConformanceReport):
    """Collects the results on the process that prints; writes certificate and report, and decides the exit code."""

    def __init__(self, certification: Certification) -> None:
        super().__init__(certification.options, {})
        self.certification = certification
        self._outcomes: list[Outcome] = []
        self._complaints: list[str] = []

    def header(self) -> list[str]:
        return summary.header(self.certification.subjects, self.options)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = len(self.results)
        super().pytest_runtest_logreport(report)
        for result in self.results[before:]:
            if not result.target:  # the worker died, so the name of the test is all there is
                result.target = next((path for path in self.certification.targets if path in report.nodeid), "")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hands xdist's workers the classes that are fit, so that none of them hangs on the others."""
        node.workerinput[FIT] = list(self.certification.targets)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus not in _RAN:
            return
        certify = self.certification.certify
        baseline = None
        try:
            baseline = Baseline.read(certify.baseline) if certify.baseline and not certify.update_baseline else None
        except BaselineError as error:
            self._complaints.append(str(error))
        self._outcomes = self.certification.outcomes(self.results, baseline)
        if baseline is not None:
            self._complaints += baseline.complaints(self._outcomes)
        if certify.update_baseline and certify.baseline:
            Baseline.of(self._outcomes, certify.baseline).write()
        self._write()
        session.exitstatus = self._exit_code()

    def _write(self) -> None:
        certify = self.certification.certify
        if certify.certificate is None and certify.report is None:
            return
        subject = next(iter(self.certification.subjects.values()))
        document = certificate.certificate(self._outcomes, self.run(), versions(subject.implementation))
        if certify.certificate is not None:
            certificate.write(document, certify.certificate)
        if certify.report is not None:
            from conformance.certification.report import write_report

            write_report(self._outcomes, document, certify.report)

    def _exit_code(self) -> int:
        if any(result.errors for outcome in self._outcomes for result in outcome.results.values()):
            return 2
        if self.options.part is not None:  # what one part did not exercise another one may
            return int(any(outcome.unfit or outcome.failures for outcome in self._outcomes))
        overall = certificate.overall(self._outcomes)
        return int(overall is Conclusion.NOT_CERTIFIED or bool(self._complaints))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._outcomes:
            return
        terminalreporter.section("certification")
        for line in summary.screen(self._outcomes):
            terminalreporter.write_line(line)
        for line in self._complaints:
            terminalreporter.write_line(line)
        if self.options.part is not None:
            terminalreporter.write_line(f"part {self.options.part}: the verdict is that of lora-compat merge on all")
        certify = self.certification.certify
        for what, file in (("certificate", certify.certificate), ("report", certify.report)):
            if file is not None:
                terminalreporter.write_line(f"{what}: {file}")


def deselect_others(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of clauses whose cases are built of the class."""
    kept, dropped = [], []
    for item in items:
        marker = item.get_closest_marker("clause")
        keep = marker is not None and concerns_a_class(marker.args[0]) and _judges_a_case(item)
        (kept if keep else dropped).append(item)
    items[:] = kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def _judges_a_case(item: pytest.Item) -> bool:
    body = getattr(getattr(item, "function", None), "body", None)
    return body is not None and judges_a_layer(body)
