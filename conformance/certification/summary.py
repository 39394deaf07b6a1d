"""What a certification says in the terminal: one screen for a class, one line a class for many."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from conformance.certification.outcome import Conclusion, Outcome
from conformance.certification.phrases import described, power, shares, short, verdict
from conformance.judging.causes import Cause, causes, order
from conformance.judging.verdicts import Failure, Verdict
from conformance.subjects.subject import Subject
from conformance.suite.options import Options
from conformance.suite.tables import HEAD, row

WIDTH = 110


def header(subjects: Mapping[str, Subject], options: Options) -> list[str]:
    """What is certified, on what, with which options."""
    lines = []
    identities = {tuple(subject.identity().items()) for subject in subjects.values()}
    for identity in sorted(identities):
        lines.append("certify: " + ", ".join(f"{name} {value}" for name, value in identity))
    lines.append(
        f"certify: {len(subjects)} {_counted(options, len(subjects))}, profile {options.profile} "
        f"({options.max_examples} cases a clause), seed {options.seed}"
    )
    return lines


def _counted(options: Options, number: int) -> str:
    if options.certify is not None and options.certify.models:
        return "model" + "s" * (number != 1)
    return "class" + "es" * (number != 1)


def screen(outcomes: Sequence[Outcome]) -> list[str]:
    """The whole summary."""
    if len(outcomes) == 1:
        return one(outcomes[0])
    lines = overview(outcomes)
    for outcome in outcomes:
        lines += ["", *reasons(outcome, shared=False)]
    return lines


def one(outcome: Outcome) -> list[str]:
    """One class: the clause table, what stands in the way, and the verdict."""
    if outcome.unfit is not None:
        return [f"{outcome.unfit.title}: {outcome.unfit}", "", f"{outcome.path}: {outcome.conclusion.value}"]
    lines = [described(outcome), ""]
    about = [result for clause, result in outcome.results.items() if outcome.concerned(clause)]
    lines += [HEAD, *map(row, about)]
    others = len(outcome.results) - len(about)
    what = "single layers" if outcome.model else "the implementation alone"
    lines.append(f"and {others} clauses that concern {what}")
    return [*lines, "", *reasons(outcome)]


def reasons(outcome: Outcome, *, shared: bool = True) -> list[str]:
    """Every kind of failure with its smallest case, what was not exercised, how sharp the run was, and the verdict.

    Without ``shared`` the failures that the family's base class has too are only counted.
    """
    if outcome.unfit is not None:
        title = "" if outcome.unfit.title == outcome.conclusion.value else f": {outcome.unfit.title}"
        first = f"{outcome.path}: {outcome.conclusion.value}{title}"
        return [first, *_wrapped(str(outcome.unfit), "  ")]
    lines = [] if shared else [described(outcome)]
    every = causes(outcome.failures)
    shown = [cause for cause in every if shared or not cause.smallest.on_base]
    for cause in shown:
        lines += _cause(cause, outcome)
    if len(shown) < len(every):
        lines.append(f"and {len(every) - len(shown)} kinds of failure that the family's base class has too")
    for clause, result in outcome.results.items():
        lines += _wrapped("\n".join(f"{clause} error: {error}" for error in result.errors[:1]), "", "    ")
    lines += _unexercised(outcome)
    lines += _refused(outcome)
    lines += _wrapped(power(outcome.evidence), "", "    ")
    return [*lines, *_wrapped(f"{outcome.path}: {verdict(outcome)}", "", "    ")]


def _unexercised(outcome: Outcome) -> list[str]:
    """MUST clauses that are red without a failure, by reason."""
    clauses: dict[str, list[str]] = {}
    for clause in outcome.red:
        result = outcome.results[clause]
        if result.verdict not in (Verdict.FAIL, Verdict.ERROR):
            reason = next((reason for reason, _ in result.reasons.most_common(1)), "not exercised: no case ran")
            reason = reason.replace(f"what {clause} is", "what it is")
            clauses.setdefault(reason, []).append(clause)
    return [line for reason, ids in clauses.items() for line in _wrapped(f"{', '.join(ids)} {reason}", "", "    ")]


def _refused(outcome: Outcome) -> list[str]:
    """MUST clauses that pass in part, by the reason that most of their refused cases have."""
    clauses: dict[str, list[str]] = {}
    for clause in outcome.refused_in_part:
        reasons = outcome.results[clause].reasons.most_common()
        reason = next(reason for reason, _ in reasons if reason.startswith(Verdict.REFUSED.value))
        clauses.setdefault(reason, []).append(clause)
    return [
        line for reason, ids in clauses.items() for line in _wrapped(f"{', '.join(ids)} in part {reason}", "", "    ")
    ]


def _cause(cause: Cause, outcome: Outcome) -> list[str]:
    first = cause.smallest
    failures = sorted(cause.failures, key=lambda one: order(one.clause))
    clauses = ", ".join(_marked(failure, outcome) for failure in failures)
    lines = _wrapped(f"{first.anomaly} in {clauses}: {first.message}", "", "    ")
    lines += _wrapped(_shown(first, outcome), "    ", "        ")
    lines += [f"    {file}" for file in first.files]
    if first.on_base:
        lines.append("    the family's base class does the same: no fault of this class")
    return lines


def _marked(failure: Failure, outcome: Outcome) -> str:
    known = failure.key in outcome.known
    return f"{failure.clause} (known)" if known else failure.clause


def _shown(failure: Failure, outcome: Outcome) -> str:
    """The case without the class, which is in the line above."""
    if outcome.target is None:
        return failure.shown
    subclass = f"subclass={outcome.target.subclass!r}"
    return failure.shown.replace(f"{subclass}, ", "").replace(f", {subclass}", "").replace(subclass, "")


def overview(outcomes: Sequence[Outcome]) -> list[str]:
    """One line a class: its verdict, and the red clauses, those first that its family's base class keeps."""
    width = max(len(short(outcome.path)) for outcome in outcomes)
    lines = [
        f"{'class':<{width}}  {'verdict':<20}{'pass':>5}{'fail':>5}{'else':>5}  red clauses (shared with the base)"
    ]
    for outcome in outcomes:
        verdicts = [result.verdict for clause, result in outcome.results.items() if outcome.concerned(clause)]
        passed, failed = verdicts.count(Verdict.PASS), verdicts.count(Verdict.FAIL)
        shared = [clause for clause in outcome.red if clause not in outcome.own_red]
        red = ", ".join(outcome.own_red) + (f" ({', '.join(shared)})" if shared else "")
        if outcome.conclusion is Conclusion.IN_PART:
            red = f"refused {shares(outcome)}"
        lines.append(
            f"{short(outcome.path):<{width}}  {outcome.conclusion.value:<20}{passed:>5}{failed:>5}"
            f"{len(verdicts) - passed - failed:>5}  {outcome.unfit.title if outcome.unfit else red.strip()}"
        )
    certified, in_part = (
        sum(outcome.conclusion is one for outcome in outcomes) for one in (Conclusion.CERTIFIED, Conclusion.IN_PART)
    )
    left_out = sum(outcome.conclusion is Conclusion.NOT_APPLICABLE for outcome in outcomes)
    what = "models" if outcomes[0].model else "classes"
    said = f"{certified} of {len(outcomes)} {what} certified" + (f", {in_part} in part" if in_part else "")
    said += f", {left_out} not applicable" if left_out else ""
    return [*lines, said]


def _wrapped(text: str, first: str, rest: str | None = None) -> list[str]:
    indent = first if rest is None else rest
    lines = []
    for number, line in enumerate(text.splitlines()):
        lines += textwrap.wrap(
            line, WIDTH, initial_indent=indent if number else first, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
        ) or [""]  # fmt: skip
    return lines
