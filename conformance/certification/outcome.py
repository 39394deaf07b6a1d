"""What the certification of one class came to: every clause of the contract with its verdict, and theirs together."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import get_type_hints

from conformance.certification.clause_tests import UnknownClause, bodies_of
from conformance.certification.errors import SubjectError
from conformance.contract import CONTRACT, Level
from conformance.judging.measuring import Evidence
from conformance.judging.verdicts import ClauseResult, Failure, Verdict, red_of, summed
from conformance.search.bodies import Body
from strategies.cases import Case
from strategies.existing import Target

# These are handed a case, and look at something else than its layer.
_WITHOUT_THE_LAYER = ("WRAP-6", "UNWRAP-4")
OF_LAYERS = "concerns single layers and what is done with them: see a run without --certify-model"
OF_THE_IMPLEMENTATION = "concerns the implementation alone, whatever the class: see a run without --certify"
DRAWN = "drawn classes"  # the path of an outcome that is of no class by name
_PRESUMED = "wrong without what"  # how `conformance.judging.presumption` says that a plainer clause is broken


@cache
def concerns_a_class(clause: str) -> bool:
    """Whether some test of ``clause`` judges cases of one linear layer; one that nothing tests is not left out."""
    if CONTRACT[clause].chapter == "MODEL":  # whose tests take seconds to import
        return False
    try:
        bodies = bodies_of(clause)
    except UnknownClause:
        return True
    return clause not in _WITHOUT_THE_LAYER and any(map(judges_a_layer, bodies))


def judges_a_layer(body: Body) -> bool:
    """Whether ``body`` is handed the case of one layer; others ask about ranks, embeddings or whole models."""
    return any(hint is Case for name, hint in get_type_hints(body).items() if name not in ("subject", "return"))


def concerns(clause: str, *, model: bool) -> bool:
    """Whether ``clause`` is about what is certified, a class or a whole model."""
    return CONTRACT[clause].chapter == "MODEL" if model else concerns_a_class(clause)


class Conclusion(enum.Enum):
    """The verdict on a class or a model."""

    NOT_APPLICABLE = "not applicable"
    CERTIFIED = "certified"
    KNOWN_FAILURES = "known failures only"
    IN_PART = "certified in part"
    NOT_CERTIFIED = "not certified"

    @property
    def ends_well(self) -> bool:
        """Whether a run that comes to this ends with exit code 0."""
        return self in (Conclusion.CERTIFIED, Conclusion.KNOWN_FAILURES)


@dataclass(slots=True)
class Outcome:
    """One class, or model, and what became of each clause; ``unfit`` says why it could not be run at all."""

    path: str
    target: Target | None = None
    impl: str = "reference"  # as `--impl` names it
    layers: str = "lora_compat"
    unfit: SubjectError | None = None
    results: dict[str, ClauseResult] = field(default_factory=dict)
    known: set[tuple[str, str]] = field(default_factory=set)  # (clause, anomaly) of the baseline
    model: bool = False
    drawn: bool = False  # of no class by name: the implementation is judged

    def concerned(self, clause: str) -> bool:
        """Whether ``clause`` is about what is certified, or judged."""
        return self.drawn or concerns(clause, model=self.model)

    @property
    def conclusion(self) -> Conclusion:
        """Certified only if every MUST is a pass, or not applicable for a stated reason, and no case was refused.

        A model that refuses an adapter by name keeps MODEL-1; a class is asked for what it serves.
        """
        red, refused = self.red, self.refused_in_part
        if self.model and self._nothing_applies:
            return Conclusion.NOT_APPLICABLE
        if self.unfit is not None or not all(self._known(clause) for clause in red):
            return Conclusion.NOT_CERTIFIED
        if refused and not self.model:
            return Conclusion.NOT_CERTIFIED if red else Conclusion.IN_PART
        return Conclusion.KNOWN_FAILURES if red else Conclusion.CERTIFIED

    @property
    def _nothing_applies(self) -> bool:
        """Whether a model could not be made or served, so that no clause says anything of it."""
        return all(one.verdict is Verdict.NOT_APPLICABLE for one in self.results.values())

    @property
    def on_vllms_layers(self) -> bool:
        """Whether the reference wraps a class of vLLM's."""
        return self.impl == "reference" and self.layers == "vllm"

    @property
    def red(self) -> list[str]:
        """The MUST clauses that stand in the way."""
        return red_of(self.results)

    @property
    def refused_in_part(self) -> list[str]:
        """The MUST clauses that pass in the cases that were served, while others were refused."""
        return [
            clause
            for clause, result in self.results.items()
            if CONTRACT[clause].level is Level.MUST
            and result.verdict is Verdict.PASS
            and result.counts[Verdict.REFUSED.value]
        ]

    @property
    def own_red(self) -> list[str]:
        """Those of `red` that the family's base class keeps: what the class itself is to blame for, or answers for."""
        return [clause for clause in self.red if not self._shared(clause)]

    def _shared(self, clause: str) -> bool:
        result = self.results[clause]
        return result.verdict is Verdict.FAIL and all(failure.on_base for failure in result.failures)

    @property
    def failures(self) -> list[Failure]:
        """Every distinct failure, in the order of the contract."""
        return [failure for result in self.results.values() for failure in result.failures]

    @property
    def evidence(self) -> Evidence:
        """All clauses' evidence added up."""
        total = Evidence()
        for result in self.results.values():
            total.add(result.evidence)
        return total

    def _known(self, clause: str) -> bool:
        result = self.results[clause]
        if result.verdict is Verdict.NOT_EXERCISED:  # a clause presumes others, and follows those that failed
            return bool(result.reasons) and all(_PRESUMED in reason for reason in result.reasons)
        return result.verdict is Verdict.FAIL and all(one.key in self.known for one in result.failures)


def complete(results: Iterable[ClauseResult], path: str, *, model: bool = False) -> dict[str, ClauseResult]:
    """The results of ``path`` by clause, with an entry for every clause of the contract, in its order."""
    totals = summed(result for result in results if result.target == path)
    found = {}
    for clause in CONTRACT:
        if clause in totals:
            found[clause] = totals[clause]
            continue
        empty = ClauseResult(clause, target=path)
        if not concerns(clause, model=model):
            why = OF_LAYERS if model else OF_THE_IMPLEMENTATION
            empty.counts[Verdict.NOT_APPLICABLE.value] = 1
            empty.reasons[f"{Verdict.NOT_APPLICABLE.value}: {why}"] = 1
        found[clause] = empty
    return found
