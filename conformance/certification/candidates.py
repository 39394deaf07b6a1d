"""The classes of a certification run, each probed, on the implementation that wraps it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from conformance.certification.baseline import Baseline, BaselineError
from conformance.certification.errors import SubjectError
from conformance.certification.outcome import Outcome, complete
from conformance.certification.probing import Prober
from conformance.certification.subjects import Found, find, mentions_vllm
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.protocol import MissingPrerequisite
from conformance.judging.verdicts import ClauseResult
from conformance.regressions.recorder import Recorder
from conformance.regressions.store import Store
from conformance.subjects.recipes import RecipeNotFoundError
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.certify_options import CertifyOptions
from conformance.suite.checking import Checking, ClauseRun
from conformance.suite.options import Options, engine_of, implementation_of
from strategies.libraries import Library

# A class that hangs costs this once; a forward of these sizes takes a millisecond.
WATCHDOG_SECONDS = 10.0


@dataclass(slots=True)
class Certifying(ABC):
    """What is certified in a run: classes, or models; ``targets`` says how cases of each are drawn, by its name."""

    options: Options
    certify: CertifyOptions
    subjects: dict[str, Subject] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    unfit: dict[str, SubjectError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what else the header says
    baseline: Baseline | None = None

    @abstractmethod
    def prepare(self, fit: list[str] | None = None) -> None:
        """Finds them; a worker takes those only that the controller found ``fit``."""

    @abstractmethod
    def clause_run(self, path: str, budget: Budget) -> Checking:
        """Runs clauses on one of them."""

    @abstractmethod
    def outcome_of(self, path: str) -> Outcome:
        """What became of one of them, without its results."""

    def close(self) -> None:
        """Ends what runs them."""
        for subject in self.subjects.values():
            subject.engine.close()

    def read_baseline(self) -> None:
        """Reads what may fail; a list that is to be written anew excuses nothing.

        Raises:
            pytest.UsageError: it cannot be read.
        """
        if self.certify.baseline is None or self.certify.update_baseline:
            return
        try:
            self.baseline = Baseline.read(self.certify.baseline)
        except BaselineError as error:
            raise pytest.UsageError(str(error)) from None

    def outcomes(self, results: list[ClauseResult]) -> list[Outcome]:
        """What became of each."""
        outcomes = [self.outcome_of(path) for path in self.subjects]
        for one in outcomes:
            one.unfit = self.unfit.get(one.path)
            one.results = complete(results, one.path, model=one.model) if one.unfit is None else {}
            one.known = self.baseline.known(one.path, one.failures) if self.baseline is not None else set()
        return outcomes


@dataclass(slots=True)
class Certification(Certifying):
    """The classes of a run, each on the implementation that wraps it."""

    found: dict[str, Found] = field(default_factory=dict)
    _by_library: dict[Library, Subject] = field(default_factory=dict)
    _recorders: dict[Library, Recorder] = field(default_factory=dict)

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
        return ClauseRun(self.subjects[path], budget, self.targets[path], self._recorder_for(self.found[path]))

    def _recorder_for(self, found: Found) -> Recorder | None:
        """Keeps failures for `lora-compat replay`, which builds the layers that each implementation has by itself."""
        impl, library = self.impl_of(found), found.library
        if impl == "reference" and library is Library.VLLM:
            return None
        if library not in self._recorders:
            identity = self.subjects[found.path].identity()
            self._recorders[library] = Recorder(Store(self.options.regressions), impl, identity)
        return self._recorders[library]

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

    def outcome_of(self, path: str) -> Outcome:
        """See `Certifying.outcome_of`."""
        found = self.found[path]
        return Outcome(path, self.targets.get(path), self.impl_of(found), found.library.value)


def _prepare_vllm() -> None:
    from conformance.implementations.vllm.layers import VllmLayers

    try:
        VllmLayers().prepare()
    except MissingPrerequisite as error:
        raise pytest.UsageError(str(error)) from None
