"""The models of a certification run: what each target stands for, and how cases are drawn for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cache, partial

import pytest
import torch

from conformance.certification.apart import Apart, ApartRun
from conformance.certification.candidates import Certifying
from conformance.certification.environment import suite_hash, versions
from conformance.certification.errors import SubjectError
from conformance.certification.kept_results import KeptResults
from conformance.certification.outcome import Outcome
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.models import ModelServer
from conformance.implementations.protocol import MissingPrerequisite
from conformance.regressions.recorder import Recorder
from conformance.regressions.store import Store
from conformance.subjects.models import making
from conformance.subjects.models.checkpoints import offer_of
from conformance.subjects.models.configs import dtypes
from conformance.subjects.models.observing import server_of
from conformance.subjects.models.traits import traits
from conformance.subjects.models.types import (
    ALL,
    BadModelTarget,
    ModelTarget,
    NotBuildable,
    everything,
    resolve,
)
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import Checking, ClauseRun
from conformance.suite.options import implementation_of
from strategies.cases import Dtype
from strategies.models.adapters import Targetable
from strategies.models.cases import ModelDraws
from strategies.models.configs import ConfigChoices, config_choices


class UnbuildableModelError(SubjectError):
    """An architecture that cannot be made into a checkpoint here."""

    title = "not applicable"
    is_usage = False


@dataclass(slots=True)
class ModelCertification(Certifying):
    """The models of a run, on the one implementation that serves them all."""

    _recorder: Recorder | None = None
    _apart: Apart = field(init=False)

    def __post_init__(self) -> None:
        self._apart = Apart(self.certify.time_limit)

    def prepare(self, fit: list[str] | None = None) -> None:
        """Finds the models; nothing is built yet, and the controller of workers imports no vLLM.

        Raises:
            pytest.UsageError: a target names no model that can be certified, or something is not installed.
        """
        impl = self.options.impl or "vllm"
        implementation = implementation_of(replace(self.options, impl=impl, layers="vllm"), prepare=False)
        if getattr(implementation, "models", None) is None:
            raise pytest.UsageError(f"--impl {impl} is not driven on whole models: use --impl vllm or reference")
        subject = Subject(implementation, ThreadsEngine(), self.options.device)
        if self.certify.resume is not None:
            state = versions(subject) | {"device": subject.device, "suite": suite_hash()}
            self._apart.kept = KeptResults(self.certify.resume, impl, state)
            self.notes = self._apart.kept.notes() if fit is None else []
        for name, found in self._found(fit).items():
            self.subjects[name] = subject
            if isinstance(found, SubjectError):
                self.unfit[name] = found
            else:
                self.targets[name] = found
        if not self.targets and fit is None:
            raise pytest.UsageError("; ".join(str(error) for error in self.unfit.values()))
        self._recorder = (
            None if self.certify.as_met else Recorder(Store(self.options.regressions), impl, subject.identity())
        )

    def _found(self, fit: list[str] | None) -> dict[str, ModelTarget | SubjectError]:
        found: dict[str, ModelTarget | SubjectError] = {}
        try:
            for given in self.certify.models if fit is None else fit:
                if given != ALL:
                    found[given] = _resolved(given)
                    continue
                targets, reasons = everything()
                found |= targets
                found |= {name: UnbuildableModelError(f"{name}: {reason}") for name, reason in reasons.items()}
        except (BadModelTarget, MissingPrerequisite) as error:
            raise pytest.UsageError(f"--certify-model {' '.join(str(error).split())}") from None
        return found

    def clause_run(self, path: str, budget: Budget) -> Checking:
        """Runs clauses on the model called ``path``, in a process of its own."""
        subject = self.subjects[path]
        forked = self.options.device == "cpu"
        if forked:
            _prepare(subject)  # which every such process has then; CUDA does not survive a fork
        target, served = self.targets[path], subject.implementation.dtypes(self.options.device)

        @cache
        def draws() -> ModelDraws:
            return draws_of(path, target, served, server_of(subject))

        listed = partial(self.baseline.lists, path) if self.baseline is not None else None

        def make(given: Budget) -> Checking:
            if not forked:
                torch.cuda.init()  # says so where this process' parent had it already
                _prepare(subject)
            return ClauseRun(subject, given, draws(), self._recorder, listed)

        return ApartRun(self._apart, path, make, budget)

    def close(self) -> None:
        """Ends the process of the last model, too."""
        self._apart.stop()
        Certifying.close(self)  # a class with slots is made anew, which `super` does not know

    def outcome_of(self, path: str) -> Outcome:
        """See `Certifying.outcome_of`."""
        return Outcome(path, impl=self.options.impl or "vllm", layers="vllm", model=True)


def _prepare(subject: Subject) -> None:
    making.prepare()
    subject.implementation.layers.prepare()
    server_of(subject).prepare()


def _resolved(name: str) -> ModelTarget | SubjectError:
    try:
        return resolve(name)
    except NotBuildable as error:
        return UnbuildableModelError(f"{name}: {error}")


def draws_of(
    name: str, target: ModelTarget, served: Collection[Dtype] = tuple(Dtype), server: ModelServer | None = None
) -> ModelDraws:
    """How cases of a model are drawn; what can be targeted is learned once for each configuration.

    ``served`` are the dtypes that the implementation takes on its device, and ``server`` knows its options.
    """

    @cache
    def offer(choices: ConfigChoices) -> Targetable | None:
        try:
            return offer_of(target, choices)
        except Exception:  # sizes that transformers does not take together
            return None

    found = traits(target)
    draws = ModelDraws(name, config_choices(found), offer, switches=found.switches, groups=found.groups)
    taken = dtypes(target)
    if server is not None:
        options, ways = server.options(target.architecture), server.ways(target.architecture)
        draws = replace(draws, options=options, ways=ways)
    return replace(draws, dtypes=tuple(one for one in draws.dtypes if one in served and one.of_tensors in taken))
