"""The subject of a run: an implementation on an engine, and what it does with a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from conformance.engines.ranks import Engine, RankFailed, RankGroup, RankHung, RankLost
from conformance.implementations.protocol import Implementation
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import HarnessError, NotApplicable, named
from conformance.values.linear import values_of
from strategies.cases import Case, Dtype
from strategies.codec import Spec
from strategies.programs import Program
from strategies.vocabulary import VocabularyCase

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject:
    """An implementation under test on an engine."""

    implementation: Implementation
    engine: Engine
    device: str = "cpu"

    def identity(self) -> dict[str, str]:
        """What is tested, and under which declaration about its products."""
        declared = Dtype.TF32 in self.implementation.dtypes(self.device)
        return dict(self.implementation.identity()) | ({"float32 products": "TF32"} if declared else {})

    def fitted(self, case: Spec) -> Spec:
        """``case`` as it can be run here: on this device, in a dtype that the implementation serves on it.

        What the implementation has no notion of is left out.
        """
        case = self.implementation.fitted(case)
        if isinstance(case, Program) and not self.implementation.companions:
            case = replace(case, companions=())
        if isinstance(case, Case) and case.device != self.device:
            case = replace(case, device=self.device)
        served = self.implementation.dtypes(self.device)
        if isinstance(case, (Case, Program, VocabularyCase)) and case.dtype not in served:
            in_tf32 = case.dtype is Dtype.FLOAT32 and Dtype.TF32 in served
            case = replace(case, dtype=Dtype.TF32 if in_tf32 else served[case.seed % len(served)])
        return case

    def require_applicable(self, case: Spec) -> None:
        """Returns where the engine and the implementation can run a case that is `fitted`.

        Raises:
            NotApplicable: they declare that they cannot.
        """
        reason = self.engine.unsupported(getattr(case, "tp_size", 1))
        if reason is None and isinstance(case, Case):
            reason = self.implementation.unsupported(case)
        if reason is not None:
            raise NotApplicable(reason)

    def observe(self, case: Case, program: Callable[[RankSession], T]) -> list[T]:
        """Runs ``program`` on every rank.

        Raises:
            NotWrapped, SubjectRefused, SubjectRaised, CollectiveMismatch: what the implementation did instead.
            HarnessError: a rank hung or died, so nothing is known.
        """
        tensors = values_of(case)
        return self.on_ranks(
            case.tp_size, lambda group: program(RankSession(case, tensors, self.implementation, group))
        )

    def on_ranks(self, size: int, program: Callable[[RankGroup], T]) -> list[T]:
        """Runs ``program`` on ``size`` ranks; raises what `observe` does."""
        try:
            return self.engine.run(size, program)
        except RankFailed as failure:
            raise named(failure, self.implementation.refusals) from failure
        except (RankHung, RankLost) as lost:
            raise HarnessError(str(lost)) from lost
