"""What one case, and one clause, came to."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conformance.contract import CONTRACT, Level
from conformance.judging.facts import Difference, Fact, Place, Remark, Sighting
from conformance.judging.measuring import Evidence
from conformance.subjects.outcomes import ClauseBroken
from strategies.cases import Case
from strategies.codec import Spec, to_dict


class Verdict(enum.Enum):
    """The verdict on a clause; only `PASS` and a declared `NOT_APPLICABLE` are green."""

    PASS = "pass"
    FAIL = "fail"
    NOT_EXERCISED = "not exercised"
    NOT_APPLICABLE = "not applicable"
    REFUSED = "refused"
    ERROR = "error"


NOWHERE = Place()


class Violation(ClauseBroken):
    """A clause broken by a case: the named anomaly, what was seen, and the case.

    The name may be a function that finds it, which is called when somebody asks: on many ranks it takes long, and of
    a failure that another clause is to blame for nobody asks.
    """

    def __init__(self, anomaly: str | Callable[[], str], fact: Fact | str, case: Spec, place: Place = NOWHERE) -> None:
        self._anomaly, self.case = anomaly, case
        self.sighting = Sighting(Remark(fact) if isinstance(fact, str) else fact, place)
        super().__init__()

    def __str__(self) -> str:
        return f"[{self.anomaly}] {self.message}\n{self.case!r}"

    @property
    def anomaly(self) -> str:
        """What is wrong, by name."""
        if not isinstance(self._anomaly, str):
            self._anomaly = self._anomaly()
        return self._anomaly

    @property
    def message(self) -> str:
        """What was seen, in words."""
        return str(self.sighting)

    @property
    def fact(self) -> Fact:
        """What was seen."""
        return self.sighting.fact

    @property
    def role(self) -> str:
        """What the module of a model is for that went wrong, and the options that were on; empty of anything else."""
        return _role(self.sighting.place.role, getattr(self.case, "options", ()))

    def __reduce__(self) -> tuple[type[Violation], tuple[str, Fact, Spec, Place]]:
        return Violation, (self.anomaly, self.sighting.fact, self.case, self.sighting.place)


def _role(role: str, options: Iterable[str]) -> str:
    return " with ".join(filter(None, (role, *options)))


@dataclass(slots=True)
class Failure:
    """One distinct failure of a clause, as data."""

    clause: str
    anomaly: str
    message: str
    case: dict[str, Any]
    shown: str
    indifferent: list[str] = field(default_factory=list)  # parts of the case that do not matter
    cause: str = ""  # equal for failures of one root cause
    on_base: bool | None = None  # of an existing class: whether the family's base class breaks the clause too
    files: list[str] = field(default_factory=list)  # of an existing class: the names of its regression tests
    seen: dict[str, Any] = field(default_factory=dict)  # `Sighting.to_dict`; empty in results of older releases

    @property
    def root(self) -> str:
        """The cause; where nobody looked for it, the anomaly."""
        return self.cause or self.anomaly

    def same_root(self, other: Failure) -> bool:
        """Whether both are of one root cause: of equal cause, or wrong numbers of one case but for its values.

        One case fails in one way; with other values the same mistake may look like another.
        """
        if self.root == other.root:
            return True
        values = ("seed", "regime", "dtype")
        mine, others = ({k: v for k, v in one.case.items() if k not in values} for one in (self, other))
        numbers = all(isinstance(one.fact, Difference) and one.fact.of_numbers for one in (self, other))
        return self.clause == other.clause and numbers and mine == others

    @property
    def role(self) -> str:
        """As `Violation.role`; by it known failures of one model, clause and anomaly are told apart."""
        return _role(Sighting.from_dict(self.seen).place.role if self.seen else "", self.case.get("options", ()))

    @property
    def key(self) -> tuple[str, str]:
        """Clause and anomaly, by which lists of known failures name it."""
        return self.clause, self.anomaly

    @property
    def fact(self) -> Fact:
        """What was seen; a sentence where the result is of a release that kept no more."""
        return Sighting.from_dict(self.seen).fact if self.seen else Remark(self.message)

    @classmethod
    def of(cls, clause: str, found: Violation) -> Failure:
        case = to_dict(found.case)
        kind = "case" if isinstance(found.case, Case) else type(found.case).__name__
        return cls(
            clause,
            found.anomaly,
            found.message,
            {"kind": kind, **case},
            repr(found.case),
            seen=found.sighting.to_dict(),
        )


@dataclass(slots=True)
class ClauseResult:
    """One shard of one clause, or several added up."""

    clause: str
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    evidence: Evidence = field(default_factory=Evidence)
    target: str = ""  # the class being certified

    @property
    def cases(self) -> int:
        """Cases run, of any outcome."""
        return sum(self.counts.values())

    @property
    def verdict(self) -> Verdict:
        """What the counts amount to."""
        if self.errors:
            return Verdict.ERROR
        if self.failures:
            return Verdict.FAIL
        for verdict in (Verdict.PASS, Verdict.REFUSED, Verdict.NOT_EXERCISED, Verdict.NOT_APPLICABLE):
            if self.counts[verdict.value]:
                return verdict
        return Verdict.NOT_EXERCISED

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "clause": self.clause,
            "counts": dict(self.counts),
            "reasons": dict(self.reasons),
            "failures": [{name: getattr(failure, name) for name in Failure.__slots__} for failure in self.failures],
            "errors": list(self.errors),
            "seconds": self.seconds,
            "evidence": self.evidence.to_dict(),
            "target": self.target,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ClauseResult:
        """The inverse of `to_dict`."""
        return cls(
            data["clause"],
            Counter(data["counts"]),
            Counter(data["reasons"]),
            [Failure(**failure) for failure in data["failures"]],
            list(data["errors"]),
            data["seconds"],
            Evidence.from_dict(data["evidence"]),
            data["target"],
        )


def summed(results: Iterable[ClauseResult]) -> dict[str, ClauseResult]:
    """Shards added up by clause; of one root cause the shortest case is kept."""
    totals: dict[str, ClauseResult] = {}
    for result in results:
        total = totals.setdefault(result.clause, ClauseResult(result.clause))
        total.counts += result.counts
        total.reasons += result.reasons
        total.errors += result.errors
        total.seconds += result.seconds
        total.evidence.add(result.evidence)
        total.target = result.target
        for failure in result.failures:
            same = [other for other in total.failures if other.same_root(failure)]
            if same and len(same[0].shown) <= len(failure.shown):
                continue
            total.failures = [other for other in total.failures if not other.same_root(failure)]
            total.failures.append(failure)
    return totals


def red_of(totals: Mapping[str, ClauseResult]) -> list[str]:
    """The MUST clauses that are not green."""
    green = (Verdict.PASS, Verdict.NOT_APPLICABLE)
    return [
        clause
        for clause, result in totals.items()
        if CONTRACT[clause].level is Level.MUST and result.verdict not in green
    ]
