"""A second opinion, before a failure is reported: a case that calls somebody wrong must call what is right, right.

The reference is asked, on the subject's own layers. Where it is the reference that is called wrong, or where it serves
none of that library's layers, the dense mathematics of the case is asked (`conformance.oracles.twin`): it must come
out as the oracle says it does.
"""

from __future__ import annotations

from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.assertions import first_difference
from conformance.judging.verdicts import Violation
from conformance.oracles.twin import twin_of
from conformance.search.bodies import Body, violation_of
from conformance.subjects.outcomes import HarnessError, NotApplicable
from conformance.subjects.subject import Subject
from conformance.values.programs import ProgramValues
from strategies.cases import Case
from strategies.codec import Spec
from strategies.libraries import Library
from strategies.programs import Program


def require_second_opinion(subject: Subject, body: Body, found: Violation) -> None:
    """Returns where what is right passes the case, or cannot run it.

    Raises:
        HarnessError: it fails, too, so the case or the clause is wrong, and nothing is known of the subject.
    """
    try:
        asks_twin = _is_reference(subject) or subject.implementation.layers.library is Library.TORCH
        objection = _of_twin(found.case) if asks_twin else _of_reference(subject, body, found.case)
    except (HarnessError, NotApplicable):
        return
    if objection:
        raise HarnessError(f"[{found.anomaly}] {found.message}: not reported, because {objection}, in {found.case!r}")


def _is_reference(subject: Subject) -> bool:
    return type(subject.implementation) is ReferenceImplementation  # what derives from it may be broken


def _of_reference(subject: Subject, body: Body, case: Spec) -> str:
    judge = Subject(ReferenceImplementation(subject.implementation.layers), subject.engine, subject.device)
    found = violation_of(judge, body, case)
    return f"the reference is called wrong, too ({found.anomaly}: {found.message})" if found else ""


def _of_twin(case: Spec) -> str:
    for one in _layers_of(case):
        products, right = twin_of(one)
        difference = first_difference(one, [products], right)
        if difference is not None:
            return f"plain products of its tensors are called wrong, too ({difference})"
    return ""


def _layers_of(case: Spec) -> list[Case]:
    if isinstance(case, Program):
        return ProgramValues(case).cases
    return [case] if isinstance(case, Case) and case.tokens else []
