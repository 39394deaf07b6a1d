"""Whether an adapter of a whole model is left alone by others, and leaves them alone."""

from __future__ import annotations

from conformance.judging.models import require_same
from conformance.judging.served_models import on_all, programs_of, require_loaded
from conformance.judging.verdicts import Violation
from conformance.subjects.models.observing import Refusal
from conformance.subjects.subject import Subject
from strategies.models.cases import ModelCase

BESIDE, AFTER = "in a batch of two adapters and of none", "after another one had its slot"
INSTEAD, AGAIN = "loaded in the place of another one", "loaded again after it was removed"


def require_untouched(subject: Subject, case: ModelCase) -> None:
    """Raises where loading changed files, or what an adapter gives depends on others or on what was there before."""
    __tracebackhide__ = True
    programs = programs_of(subject, case)
    before = programs.chain.fingerprint()
    seen = on_all(subject, case, programs.in_company)
    if programs.chain.fingerprint() != before:
        raise Violation("file-changed", "the adapter's directory is not what it was before it was loaded", case)
    require_loaded(programs.chain, seen)
    several = case.deployment.slots > 1
    for rank, one in enumerate(one for one in seen if not isinstance(one, Refusal)):
        if one.beside is not None:
            require_same(case, *one.beside, rank, *((BESIDE, "wrong-slot") if several else (AFTER, "stale-slot")))
        if one.instead is not None:
            require_same(case, *one.instead, rank, INSTEAD, "stale-slot")
        require_same(case, one.first, one.again, rank, AGAIN)
