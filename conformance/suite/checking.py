"""From a clause and a strategy to a pytest test: one property, spread over shards, every case accounted for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import hypothesis

from conformance.engines.ranks import RankHung, RankLost
from conformance.judging.facts import Raised
from conformance.judging.measuring import Measure, measuring
from conformance.judging.presumption import require_presumed
from conformance.judging.verdicts import ClauseResult, Failure, Verdict, Violation
from conformance.regressions.recorder import Recorder
from conformance.search.bodies import Body, judges
from conformance.search.drawing import Source
from conformance.search.remaining import in_other_roles, remaining
from conformance.search.searching import Search
from conformance.search.second_opinion import require_second_opinion
from conformance.search.settling import manner, on_few_ranks
from conformance.subjects.building import flatten
from conformance.subjects.outcomes import (
    HarnessError,
    NotApplicable,
    NotExercised,
    NotWrapped,
    SubjectRaised,
    SubjectRefused,
)
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.devices import device_lost
from lora_compat.families import Family
from strategies.cases import Case, LayerSpec
from strategies.codec import Spec
from strategies.existing import NothingFits, Target, targeting
from strategies.models.cases import ModelCase, ModelDraws, targeting_model
from strategies.models.plain_cases import plain_cases
from strategies.subclasses import SubclassSpec


class Checking(Protocol):
    """Who runs the property of one clause."""

    def check(self, clause: str, name: str, source: Source, body: Body) -> ClauseResult:
        """The clause's result; never raises for what is found."""


@dataclass(slots=True)
class ClauseRun:
    """Runs the property of one clause on a subject, and keeps account.

    ``listed`` tells of a failure that is known, which is kept as it was met: not made plain, and not stored.
    """

    subject: Subject
    budget: Budget
    result: ClauseResult = field(init=False)
    target: Target | ModelDraws | None = None
    recorder: Recorder | None = None
    listed: Callable[[Failure], bool] | None = None

    def check(self, clause: str, name: str, source: Source, body: Body) -> ClauseResult:
        """Runs ``body`` on the cases stored for the clause, then on drawn ones; never raises for what they find."""
        self.result = ClauseResult(clause, target=self.target.path if self.target else "")
        without = self.subject.implementation.without(clause)
        if without is not None:
            self._not_applicable(without)
            return self.result
        of_model = isinstance(self.target, ModelDraws)  # its clauses are asked of the same chains, made once
        seed = self.budget.seed_for(*(("MODEL", self.result.target) if of_model else (clause, name)))
        judge, sight = partial(self._judged, body), partial(self._sighted, clause, body)
        search = Search(
            source, judge, sight, examples=self.budget.examples, seed=seed, listed=partial(self._is_listed, clause)
        )
        started = time.perf_counter()
        try:
            with _targeting(self.target):
                search.known.update(self._replay(clause, body))
                for found in search.failures():
                    self._keep(clause, body, found)
        except NothingFits as reason:
            self._not_applicable(str(reason))
        except hypothesis.errors.Flaky as error:
            if not self.result.errors:  # after which no case is run, and none fails again
                self.result.errors.append(f"not reproducible: {error}")
        finally:
            self.result.seconds = time.perf_counter() - started
        if search.exhausted:
            self.result.reasons[f"{Verdict.FAIL.value}: more ways of failing were not looked for"] += 1
        return self.result

    def _not_applicable(self, reason: str) -> None:
        self.result.counts[Verdict.NOT_APPLICABLE.value] += 1
        self.result.reasons[f"{Verdict.NOT_APPLICABLE.value}: {reason}"] += 1

    def one(self, body: Body, case: Spec) -> Verdict:
        """One case, and what it came to.

        An error of the harness is recorded once and ends the clause: the next case might hang as long as this one,
        and nothing is to be shrunk.

        Raises:
            Violation: the case breaks the clause.
        """
        if self.result.errors:
            return Verdict.ERROR
        case = self.subject.fitted(case)
        try:
            self.subject.require_applicable(case)
            with measuring() as measure:
                self._measured(body, case, measure)
        except (NotExercised, NotApplicable, NotWrapped, SubjectRefused) as outcome:
            verdict = {
                NotExercised: Verdict.NOT_EXERCISED,
                NotApplicable: Verdict.NOT_APPLICABLE,
            }.get(type(outcome), Verdict.REFUSED)
            said = outcome.reason if isinstance(outcome, SubjectRefused) else str(outcome)
            self.result.reasons[f"{verdict.value}: {said}"] += 1
        except (HarnessError, RankHung, RankLost) as error:
            self.result.errors.append(f"{error}, in {case!r}")
            verdict = Verdict.ERROR
        else:
            verdict = Verdict.PASS
        self.result.counts[verdict.value] += 1
        return verdict

    def _measured(self, body: Body, case: Spec, measure: Measure) -> None:
        try:
            body(self.subject, case)
        except Violation as found:
            if device_lost(self.subject.device):  # who is to blame cannot be asked any more
                raise HarnessError(f"the GPU is lost to this process: {found.message}") from found
            self.require_blame(found)
            self.result.evidence.record(case, measure, passed=False)
            raise on_few_ranks(self.subject, self.result.clause, body, found) from None
        self.result.evidence.record(case, measure, passed=True)

    def require_blame(self, found: Violation) -> None:
        """Returns where the implementation is to blame for ``found``, and this clause the one to say so.

        Raises:
            NotExercised: a plainer case that the clause presumes, or an existing class by itself, is at fault.
            HarnessError: a drawn class cannot run by itself; nothing is known of the implementation.
        """
        require_presumed(self.subject, self.result.clause, found)
        if not isinstance(found.fact, Raised) or not isinstance(found.case, Case):
            return
        try:
            self.subject.observe(found.case, lambda rank: flatten(rank.build().run()))
        except SubjectRaised as error:
            if self.target is None:
                raise HarnessError(f"the base layer cannot run by itself: {error}") from error
            raise NotExercised(f"the class raises it by itself: {error}") from error

    def _judged(self, body: Body, case: Spec) -> None:
        try:
            self.one(body, case)
        except Violation:
            self.result.counts[Verdict.FAIL.value] += 1
            raise

    def _sighted(self, clause: str, body: Body, found: Violation) -> None:
        if self.recorder is not None:
            self.recorder.sight(body, clause, found)

    def _is_listed(self, clause: str, found: Violation) -> bool:
        return self.listed is not None and self.listed(Failure.of(clause, found))

    def _replay(self, clause: str, body: Body) -> Iterator[str]:
        """Runs a model with everything adapted, and the cases stored for the clause; tells how those fail that do."""
        stored = self.recorder.priors(clause, body.__name__) if self.recorder else []
        whole = plain_cases(self.target) if isinstance(self.target, ModelDraws) and not self.budget.shard else []
        waiting: list[Spec] = [*whole, *stored]
        kinds: set[str] = set()
        while waiting:
            case = waiting.pop(0)
            if not judges(body, case) or _target_of(case) != self.result.target:
                continue
            try:
                self.one(body, case)
            except Violation as found:
                # What is listed needs no case of its own, in which it would be the one that is reported.
                also = [one for one in in_other_roles(found) if manner(one) in kinds or self._is_listed(clause, one)]
                left = remaining(found, also)
                waiting[:0] = [left] if left else []
                for one in (found, *also):
                    if not isinstance(case, ModelCase) or manner(one) not in kinds:
                        self._keep(clause, body, one)
                        kinds.add(manner(one))
                        yield manner(one)

    def _keep(self, clause: str, body: Body, found: Violation) -> None:
        try:
            kept = self._settled(clause, body, found)
        except HarnessError as error:
            self.result.errors.append(str(error))
            return
        if self.target is not None:
            kept.on_base = self._base_has_it(body, found)
        if not any(kept.same_root(other) for other in self.result.failures):
            self.result.failures.append(kept)

    def _settled(self, clause: str, body: Body, found: Violation) -> Failure:
        listed = self._is_listed(clause, found)
        if self.recorder is not None and not listed:
            return self.recorder.settle(self.subject, body, clause, found)
        if not listed:  # what is known has its proof
            require_second_opinion(self.subject, body, found)
        failure = Failure.of(clause, found)
        if isinstance(found.case, ModelCase):
            failure.cause = manner(found)
        return failure

    def _base_has_it(self, body: Body, found: Violation) -> bool | None:
        """Whether the family's base class breaks the clause in the same way, so that the class is not to blame."""
        if not isinstance(found.case, Case) or not _base_takes(found.case.layer):
            return None
        try:
            body(self.subject, replace(found.case, subclass=SubclassSpec()))
        except Violation as of_base:
            return of_base.anomaly == found.anomaly
        except Exception:
            return None  # the base class cannot be built like this
        return False


def _targeting(target: Target | ModelDraws | None) -> AbstractContextManager[None]:
    return targeting_model(target) if isinstance(target, ModelDraws) else targeting(target)


def _target_of(case: Spec) -> str:
    """The existing class or model that the case is about; none for drawn ones."""
    if isinstance(case, ModelCase):
        return case.target
    return case.subclass.target or "" if isinstance(case, Case) else ""


def _base_takes(layer: LayerSpec) -> bool:
    """Whether the family's base class has as many outputs as an existing class may have added to."""
    if layer.family is Family.MERGED_COLUMN:
        return True
    return len(layer.output_sizes) == (1 if layer.heads is None else len(layer.heads.output_sizes))
