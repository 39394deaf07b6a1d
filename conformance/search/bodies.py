"""The clause tests as functions of a case: what replay, and the search for what matters, run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

from conformance.judging.presumption import require_presumed
from conformance.judging.verdicts import Violation
from conformance.subjects.outcomes import HarnessError, NotExercised, NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from strategies.codec import Spec

Body = Callable[[Subject, Any], None]


def judges(body: Body, case: Spec) -> bool:
    """Whether ``case`` is of the kind that ``body`` takes: a clause may have tests over layers and over models."""
    kind = next(hint for name, hint in get_type_hints(body).items() if name not in ("subject", "return"))
    return not isinstance(kind, type) or isinstance(case, kind)


def violation_of(subject: Subject, body: Body, case: Spec, *, blaming: str | None = None) -> Violation | None:
    """How ``case`` breaks the clause, None where it keeps it or is of a kind that ``body`` does not judge.

    With ``blaming``, a clause, also None where that clause is not to blame.

    Raises:
        HarnessError: the case cannot be run, so nothing is known.
        NotApplicable: the implementation declares it unsupported.
    """
    if not judges(body, case):
        return None
    case = subject.fitted(case)
    subject.require_applicable(case)
    try:
        body(subject, case)
    except (NotExercised, NotWrapped, SubjectRefused):
        return None
    except Violation as found:
        return found if blaming is None or is_to_blame(subject, blaming, found) else None
    except HarnessError:
        raise
    except Exception as error:  # a case that makes no sense ends in any of them
        raise HarnessError(f"{type(error).__name__}: {error}") from error
    return None


def is_to_blame(subject: Subject, clause: str, found: Violation) -> bool:
    """Whether ``found`` breaks ``clause``, and nothing that it presumes (`conformance.judging.presumption`)."""
    try:
        require_presumed(subject, clause, found)
    except NotExercised:
        return False
    return True
