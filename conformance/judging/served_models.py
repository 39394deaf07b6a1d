"""A case of a whole model, served: what every rank makes of it, or why that says nothing of the clause at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from conformance.engines.ranks import RankGroup
from conformance.judging.anomalies.models import VANISHED
from conformance.judging.models import require_merged
from conformance.judging.verdicts import Violation
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.observing import Refusal, chains, on_ranks, refused, server_of, settings_of
from conformance.subjects.models.programs import Programs, Seen
from conformance.subjects.outcomes import FileRefused, NotApplicable, NotExercised, SubjectRaised
from conformance.subjects.subject import Subject
from strategies.models.cases import ModelCase
from strategies.models.deployments import PLAIN

T = TypeVar("T")


def on_all(subject: Subject, case: ModelCase, program: Callable[[RankGroup], T]) -> list[T]:
    """`on_ranks`; a forward that runs without adapters, and does not with them, breaks the clause."""
    __tracebackhide__ = True
    try:
        return on_ranks(subject, case, program)
    except SubjectRaised as error:
        raise Violation("raised", str(error.failure.error), case) from error


def programs_of(subject: Subject, case: ModelCase) -> Programs:
    """The case's chain, on whoever serves it."""
    server, chain = server_of(subject), chains().of(case)
    return Programs(server, chain, settings_of(case, chain))


def require_served(subject: Subject, case: ModelCase, how: str = "") -> None:
    """Raises where the model with the adapter is not the merged checkpoint.

    Raises:
        FileRefused: the adapter is refused by name.
        NotExercised: it is not loaded, for a reason that names nothing.
        Violation: it is loaded and wrong.
    """
    __tracebackhide__ = True
    programs = programs_of(subject, case)
    known = programs.chain.served
    try:
        seen = on_all(subject, case, programs.served)
        require_right(case, programs.chain, seen, how)
    except (FileRefused, NotApplicable, NotExercised, Violation) as outcome:
        known[programs.server, case] = outcome
        raise
    known[programs.server, case] = None


def require_right(case: ModelCase, chain: Chain, seen: Sequence[Seen | Refusal], how: str) -> None:
    """Raises as `require_served`, of what the ranks saw."""
    __tracebackhide__ = True
    require_loaded(chain, seen)
    require_merged(case, chain, [one for one in seen if not isinstance(one, Refusal)], how)


def presume_served(subject: Subject, case: ModelCase, clause: str) -> None:
    """Raises `NotExercised` where the model with the adapter is wrong by itself, which is no matter of ``clause``.

    What a clause before this one found out is not asked again.
    """
    __tracebackhide__ = True
    programs = programs_of(subject, case)
    try:
        if (programs.server, case) not in programs.chain.served:
            require_served(subject, case)
        outcome = programs.chain.served[programs.server, case]
        if outcome is not None:
            raise outcome.with_traceback(None)
    except Violation as found:
        raise NotExercised(f"wrong without what {clause} is about already [{found.anomaly}]") from found


def require_restricted(subject: Subject, case: ModelCase) -> None:
    """Raises where LoRA is restricted to some modules, and an adapter of others is neither refused nor served whole.

    One cause, whichever modules these are.
    """
    __tracebackhide__ = True
    presume_served(subject, replace(case, deployment=PLAIN), "MODEL-11")
    try:
        require_served(subject, case, f"with LoRA on {', '.join(case.deployment.modules)} alone")
    except Violation as found:
        if found.anomaly != VANISHED:
            raise
        if len(case.adapter.modules) == 1:
            raise NotExercised("the class knows the module by another name") from found
        raise Violation(VANISHED, found.fact, case, replace(found.sighting.place, role="")) from None


def require_loaded(chain: Chain, seen: Sequence[object]) -> None:
    """Raises what a refusal of any rank comes to; one that names nothing breaks MODEL-1."""
    for one in seen:
        if isinstance(one, Refusal):
            raise refused(one, chain) or NotExercised(f"wrong without what it is about already: {one.kind} on loading")


def in_part(
    subject: Subject, case: ModelCase, judge: Callable[[ModelCase], None], *, everywhere: bool = False
) -> None:
    """Judges a case; one that is not served as a whole, again by those targets of which everything is served alone.

    ``everywhere``, by every name that their modules are held by: for what is presumed of them.
    """
    __tracebackhide__ = True
    try:
        judge(case)
    except (FileRefused, NotExercised):
        part = served_part(subject, case, everywhere=everywhere)
        if part is None:
            raise
        judge(part)


def served_part(subject: Subject, case: ModelCase, *, everywhere: bool = False) -> ModelCase | None:
    """A case of the targets of which everything is served where it is alone; None if that is all of them, or none.

    Nor of those whose own weights PEFT saves beside, as of embeddings, for which a whole file may be refused.
    """
    programs = programs_of(subject, case)
    file, known, asked = programs.chain.file, programs.chain.taken, (programs.server, programs.settings)
    if asked not in known:
        (known[asked],) = on_all(subject, replace(case, tp_size=1, fully_sharded=False), programs.taken)
    served = {key for key, by_all_names in known[asked].items() if by_all_names or not everywhere}
    left = [name for pair in file.pairs if pair.key_a not in served for name in (pair.module, pair.parameter)]
    kept = case.adapter.without((*left, *file.saved_beside))
    return replace(case, adapter=kept) if kept != case.adapter and kept.modules + kept.parameters else None
