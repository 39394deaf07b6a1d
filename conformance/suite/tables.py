"""Tables of clauses: two to a line for the screen, and one to a line with all that is known."""

from __future__ import annotations

from collections.abc import Mapping

from conformance.contract import CONTRACT
from conformance.judging.verdicts import ClauseResult, Verdict
from conformance.subjects.outcomes import NOT_HERE

HEAD = f"{'clause':<10}{'level':<8}{'verdict':<16}{'cases':>7}{'pass':>7}{'vain':>7}{'refused':>9}{'n/a':>6}"
_SHORT_HEAD = f"{'clause':<9}{'verdict':<15}{'cases':>7}{'pass':>7}"


def row(result: ClauseResult) -> str:
    """A clause: its level and verdict, how many cases were run, and what they came to."""
    counts = result.counts
    return (
        f"{result.clause:<10}{CONTRACT[result.clause].level.value:<8}{result.verdict.value:<16}{result.cases:>7}"
        f"{counts[Verdict.PASS.value]:>7}{counts[Verdict.NOT_EXERCISED.value]:>7}"
        f"{counts[Verdict.REFUSED.value]:>9}{counts[Verdict.NOT_APPLICABLE.value]:>6}"
    )


def detailed(totals: Mapping[str, ClauseResult]) -> list[str]:
    """One line a clause; under it each failure with its case, the errors, and why cases showed nothing."""
    lines = [HEAD]
    for result in totals.values():
        lines.append(row(result))
        for failure in result.failures:
            lines += [f"    {failure.anomaly}: {failure.message}", f"        {failure.shown}"]
        lines += [f"    error: {error}" for error in result.errors]
        here = [(reason, count) for reason, count in sorted(result.reasons.items()) if NOT_HERE in reason]
        said = [(reason, count) for reason, count in result.reasons.most_common() if _worth_saying(reason, result)]
        lines += [f"    {reason} ({count})" for reason, count in here + [one for one in said[:2] if one not in here]]
    return lines


def compact(totals: Mapping[str, ClauseResult]) -> list[str]:
    """Two clauses a line, column by column: verdict, cases, and how many of them passed."""
    cells = [
        f"{result.clause:<9}{result.verdict.value:<15}{result.cases:>7}{result.counts[Verdict.PASS.value]:>7}"
        for result in totals.values()
    ]
    half = -(-len(cells) // 2)
    left, right = [_SHORT_HEAD, *cells[:half]], [_SHORT_HEAD, *cells[half:], ""]
    return [f"{one}   {other}".rstrip() for one, other in zip(left, right, strict=False)]


def _worth_saying(reason: str, result: ClauseResult) -> bool:
    """Refusals always; why a case showed nothing only where no case showed anything."""
    return reason.startswith(Verdict.REFUSED.value) or result.verdict not in (
        Verdict.PASS,
        Verdict.FAIL,
        Verdict.ERROR,
    )
