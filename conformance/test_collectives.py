"""COMM: collectives."""

from __future__ import annotations

from dataclasses import replace

from conformance.engines.ranks import Collective
from conformance.judging.assertions import observed
from conformance.judging.facts import Aspect, Difference, Disagreement, Place
from conformance.judging.verdicts import Violation
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from lora_compat.families import Family
from strategies.cases import Case
from strategies.drawing import cases

COLLECTIVE = (Family.ROW, Family.COLUMN, Family.MERGED_COLUMN, Family.QKV)


def issued(subject: Subject, case: Case) -> list[list[Collective]]:
    """What every rank issued; disagreement is a violation by itself."""
    __tracebackhide__ = True

    def program(rank: RankSession) -> list[Collective]:
        rank.build().wrap().load().run()
        return rank.group.log

    return observed(subject, case, program)


def _with_a_collective(case: Case) -> Case:
    """Shards the adapters of a layer that would issue nothing, and lets a row-parallel one reduce."""
    if case.layer.family is Family.ROW:
        layer = replace(case.layer, reduce_results=True)
        return replace(case, layer=layer)
    return case if case.layer.gather_output else replace(case, fully_sharded=True)


@check(
    "COMM-1",
    cases(families=COLLECTIVE, tp_sizes=(2, 4, 8, 16, 32), disable_tp=False, without_adapter=False).map(
        _with_a_collective
    ),
)
def test_all_ranks_issue_the_same_collectives(subject: Subject, case: Case) -> None:
    logs = issued(subject, case)
    for rank, log in enumerate(logs):
        if [one.signature for one in log] != [one.signature for one in logs[0]]:
            first, second = ([str(one) for one in each] for each in (logs[0], log))
            fact = Disagreement(f"rank 0 issued {first}", f"rank {rank} issued {second}")
            raise Violation("collective-mismatch", fact, case)
    if not logs[0]:
        raise NotExercised("no collective was issued")


@check("COMM-2", cases(tp_sizes=(1, 2, 4), disable_tp=True))
def test_a_layer_that_is_not_parallel_issues_none(subject: Subject, case: Case) -> None:
    if case.layer_tp_size > 1:  # a simplification may lift disable_tp
        raise NotExercised("the layer is parallel")
    for rank, log in enumerate(issued(subject, case)):
        if log:
            raise Violation(
                "collective-mismatch",
                Difference(Aspect.RESULT, f"after it issued {log[0]}", "no collective"),
                case,
                Place(rank=rank),
            )
