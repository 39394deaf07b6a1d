"""One root cause, one finding: what a clause takes for granted when it blames a case.

A layer whose LoRA is wrong for a single token and a single adapter breaks nearly every clause about numbers, each
in its own words. So a case that breaks a clause counts against it only if the plainer case that the clause presumes
is served rightly; otherwise the finding is MATH-1's (or MATH-8's), which draw those plainer cases, and here the case
has shown nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from conformance.judging.assertions import assert_merged_equivalence
from conformance.judging.facts import Disagreement
from conformance.judging.verdicts import Violation
from conformance.subjects.outcomes import HarnessError, NotExercised, NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from strategies.cases import AdapterSpec, Case, Dtype, Layout, Quantization
from strategies.forwards import Forward

# A forward that does something else to each token may leave the first as it is.
_BY_TOKEN = (Forward.EXTRA_ARGUMENT, Forward.MASKED, Forward.NON_LINEAR, Forward.NORMALIZED,
             Forward.LARGEST_OF_TWO, Forward.LARGEST_SO_FAR)  # fmt: skip


def alone(case: Case) -> list[Case]:
    """Each adapter by itself on one token, or on a few where the forward goes by the token."""
    tokens = (0,) * (6 if case.subclass.forward in _BY_TOKEN else 1)
    plain = replace(case, tokens=tokens, layout=Layout.TWO_D, nesting=())
    return [replace(plain, adapters=(adapter,)) for adapter in case.adapters]


def complete(case: Case) -> Case:
    """The same case with a tensor for every packed name; what else an adapter may hold is MATH-8's."""
    fused = not case.packed and len(case.layer.output_sizes) > 1
    present = (True,) * max(1, len(case.packed))
    whole = (replace(one, fused=fused, present=present, ranks=() if fused else one.ranks) for one in case.adapters)
    return replace(case, adapters=tuple(whole))


def _completed(case: Case) -> list[Case]:
    return [complete(one) for one in alone(case)]


def _unsharded(case: Case) -> list[Case]:
    return [replace(one, tp_size=1, fully_sharded=False) for one in alone(case)]


def _with(**changes: object) -> Callable[[Case], list[Case]]:
    return lambda case: [replace(one, **changes) for one in alone(case)]  # type: ignore[arg-type]


def _each(change: Callable[[AdapterSpec, Case], AdapterSpec]) -> Callable[[Case], list[Case]]:
    return lambda case: [replace(one, adapters=(change(one.adapters[0], case),)) for one in alone(case)]


def _without_bias(case: Case) -> list[Case]:
    return [replace(one, layer=replace(one.layer, bias=False)) for one in alone(case)]


PRESUMED: dict[str, Callable[[Case], list[Case]]] = {
    **dict.fromkeys(
        ("WRAP-5", "WRAP-7", "WRAP-8", "RANK-5", "MATH-2", "MATH-3", "MATH-5", "MATH-7", "MATH-13"), alone
    ),
    "MATH-4": _each(lambda adapter, case: replace(adapter.of_rank(case.max_rank), alpha=float(case.max_rank))),
    "MATH-6": _unsharded,
    "MATH-8": _completed,
    "MATH-9": _without_bias,
    "MATH-10": lambda case: [replace(one.exact(), dtype=Dtype.FLOAT32) for one in alone(case)],
    **dict.fromkeys(("MATH-11", "MATH-17"), _with(quantization=Quantization.NONE)),
    "MATH-12": _each(lambda adapter, case: replace(adapter, alpha=float(adapter.rank), rslora=False)),
    "COMM-1": alone,
    "COMM-2": _unsharded,
}
_TRIES = 4


def _with_other_values(cases: list[Case]) -> Iterator[Case]:
    """The cases, and again with other values: a forward that clips may hide with some what it shows with others."""
    for shift in range(_TRIES):
        for case in cases:
            yield replace(case, seed=(case.seed + shift) % 2**16)


def require_presumed(subject: Subject, clause: str, found: Violation) -> None:
    """Returns where the clause is to blame for ``found``.

    Raises:
        NotExercised: a plainer case that the clause presumes is served wrongly already.
    """
    case = found.case
    if not isinstance(case, Case) or clause not in PRESUMED:
        return
    if isinstance(found.fact, Disagreement):
        return  # no clause about numbers says so
    for plainer in _with_other_values(PRESUMED[clause](case)):
        try:
            fitted = subject.fitted(plainer)
            assert isinstance(fitted, Case)
            assert_merged_equivalence(subject, fitted, needs_signal=False)
        except Violation as earlier:
            raise NotExercised(f"wrong without what {clause} is about already") from earlier
        except (NotWrapped, SubjectRefused, HarnessError):
            continue
