"""The last steps of shrinking.

Hypothesis shrinks the draws; `settled` then takes the plain value of each part that is not needed, one at a time, so
that the end does not depend on where a shard began.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from conformance.judging.facts import Difference, Raised
from conformance.judging.verdicts import Violation
from conformance.search.bodies import Body, is_to_blame, violation_of
from conformance.search.simplifications.fewer_ranks import fewer_ranks
from conformance.search.simplifications.linear import simpler
from conformance.search.simplifications.programs import simpler_whole
from conformance.subjects.outcomes import HarnessError, NotApplicable
from conformance.subjects.subject import Subject
from strategies.cases import Case, Regime
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.validity import is_valid
from strategies.vocabulary import VocabularyCase

MAX_STEPS = 600
# A case of 32 ranks takes as long as fifty of one rank, and more mistakes give the same by chance; to shrink it takes
# hundreds of runs.
FEW_RANKS = 8
_VOTES = 12
_SEEDS = 5  # a bias of one number is zero with every fourth
_RENAMINGS = 3
# Names for numbers that no known mistake gives. A large case hides its mistake behind them: a forward of its own, or a
# second adapter, changes what the mistake would give, so a smaller case has another name.
VAGUE = ("unexplained", "delta-misplaced", "delta-incomplete")
Still = Callable[[Spec], Violation | None]


def same_failure(subject: Subject, clause: str, body: Body, first: Violation, *, or_explained: bool = False) -> Still:
    """Tells whether a case still fails in the same way as ``first``, and how.

    ``or_explained``: or with wrong numbers that have a better name, if what ``first`` is called says little.
    """

    def still(case: Spec) -> Violation | None:
        try:
            found = violation_of(subject, body, case)
            if found is None or not alike(found):
                return None
            return found if is_to_blame(subject, clause, found) else None  # last: it takes up to a dozen more cases
        except (HarnessError, NotApplicable):
            return None

    def alike(found: Violation) -> bool:
        return manner(found) == manner(first) or (or_explained and _numbers_differ(found))

    return still


def _numbers_differ(found: Violation) -> bool:
    return isinstance(found.fact, Difference) and found.fact.of_numbers and not found.fact.of_shape


def manner(found: Violation) -> str:
    """The anomaly, and of which module of a model; for what names none, which exception is raised where, or that the
    result has another form.
    """
    fact = found.fact
    if isinstance(fact, Raised) and found.anomaly == "raised":
        return f"raised {fact.type} at {fact.site}"
    if isinstance(fact, Difference) and fact.of_shape:
        return "another shape"
    return f"{found.anomaly} of {found.role}" if found.role else found.anomaly


def on_few_ranks(subject: Subject, clause: str, body: Body, found: Violation) -> Violation:
    """The failure of the same case on fewer ranks, where it has many and fails there, too."""
    case = found.case
    if not isinstance(case, Case) or case.tp_size <= FEW_RANKS:
        return found
    for fewer in filter(is_valid, fewer_ranks(case)):
        if fewer.tp_size < case.tp_size:
            with contextlib.suppress(HarnessError, NotApplicable):
                other = violation_of(subject, body, fewer, blaming=clause)
                if other is not None:
                    return other
    return found


def settled(found: Violation, still: Still, max_steps: int = MAX_STEPS) -> Violation:
    """The same failure on the plainest case that ``max_steps`` attempts lead to."""
    steps = 0
    improved = True
    while improved and steps < max_steps:
        improved = False
        for candidate in plainer(found.case):
            steps += 1
            better = still(candidate)
            if better is not None and better.case != found.case:
                found, improved = better, True
                break
            if steps >= max_steps:
                break
    return found


def plainer(case: object) -> Iterator[Spec]:
    """Every simplification of ``case``, the largest first."""
    if isinstance(case, Case):
        yield from _with_other_values(case)
    elif isinstance(case, Spec):
        yield from simpler_whole(case)


def _with_other_values(case: Case) -> Iterator[Case]:
    """The simpler neighbours, with their own values and with others: what is left must not hide by coincidence."""
    plainer = list(simpler(case))
    yield from plainer
    for one in plainer:
        yield from (replace(one, seed=seed) for seed in range(_SEEDS) if seed != one.seed and one.seed == case.seed)


def renamed(subject: Subject, clause: str, body: Body, found: Violation) -> Violation:
    """The same failure by the name that most values give it: on a small case two mistakes may look alike."""
    case = found.case
    if not isinstance(case, (Case, VocabularyCase, ExpertsCase)) or found.anomaly == "raised":
        return found
    seen: dict[str, list[Violation]] = {}
    for seed in range(_VOTES):
        with contextlib.suppress(HarnessError, NotApplicable):
            other = violation_of(subject, body, replace(case, seed=seed), blaming=clause)
            if other is not None:
                seen.setdefault(manner(other), []).append(other)
    most = max(seen.values(), key=len, default=[])
    return most[0] if len(most) > len(seen.get(manner(found), ())) else found


def _named_within_tolerance(found: Violation) -> bool:
    """Whether rounding may hide what the name should be: a small contribution looks like none at all."""
    return isinstance(found.case, Case) and found.case.regime is Regime.ROUNDED and _numbers_differ(found)


def plainest(subject: Subject, clause: str, body: Body, found: Violation) -> tuple[Violation, Still]:
    """The failure settled and rightly named, and what tells whether another case fails in the same way."""
    still = same_failure(subject, clause, body, found)
    smallest = settled(found, still)
    for _ in range(_RENAMINGS):
        better = renamed(subject, clause, body, smallest)
        if better is smallest:
            break
        still = same_failure(subject, clause, body, better)
        smallest = settled(better, still)
    if smallest.anomaly not in VAGUE and not _named_within_tolerance(smallest):
        return smallest, still
    told = same_failure(subject, clause, body, smallest, or_explained=True)
    explained = settled(smallest, told)
    return explained, same_failure(subject, clause, body, explained)
