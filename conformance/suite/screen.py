"""What a person reads at the end of a run: the table, each cause once, the verdict, and the command to go on with.

Eighty columns, and nothing that is said twice: the whole of a case is in the cause's test file, ``-v`` has the rest.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conformance.contract import CONTRACT, Level
from conformance.judging.causes import Cause, causes, finding_of
from conformance.judging.verdicts import ClauseResult, Verdict, red_of
from conformance.subjects.outcomes import NOT_HERE
from conformance.suite.tables import compact

WIDTH = 80
_MOST_REASONS = 3
_MOST_CLAUSES = 8


@dataclass(frozen=True, slots=True)
class Known:
    """A file of known failures: where each is reported, and what the file is wrong about."""

    file: Path
    links: Mapping[tuple[str, str], str] = field(default_factory=dict)  # by clause and anomaly
    excused: frozenset[tuple[str, str]] = frozenset()  # those that do not fail this run
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """All that is said at the end of a run, as data."""

    totals: Mapping[str, ClauseResult]
    regressions: Path
    known: Known | None = None
    files: Counter[str] = field(default_factory=Counter)  # test files, by what is known of them
    interrupted: bool = False
    part: str = ""

    def lines(self) -> Iterator[str]:
        """The screen."""
        yield from compact(self.totals)
        found = causes(failure for result in self.totals.values() for failure in result.failures)
        excused = self.known.excused if self.known else frozenset()
        new = [cause for cause in found if not cause.keys <= excused]
        for number, cause in enumerate(new, start=1):
            yield from ["", f"causes, test files in {self.regressions}"] if number == 1 else []
            yield from self._cause(number, cause, found)
        yield from self._errors()
        yield from self._reasons()
        yield ""
        yield from self.verdict()

    def verdict(self) -> Iterator[str]:
        """Known failures, what became of test files, the verdict, and the command to go on with."""
        for complaint in self.known.complaints if self.known else ():
            yield from _wrapped(complaint)
        if self.known and self.known.excused:
            yield f"{len(self.known.excused)} known failures in {self.known.file}"
        if self.files:
            yield "test files: " + ", ".join(f"{count} {what}" for what, count in self.files.items())
        yield from _wrapped(self._conclusion())
        if any(result.failures for result in self.totals.values()):
            yield f"replay the failures: lora-compat replay {self.regressions}"

    def _cause(self, number: int, cause: Cause, others: Sequence[Cause]) -> list[str]:
        """Two lines: what and where, and the case; the file stands in the first where there is room."""
        about = ", ".join(filter(None, [f"in {_together(cause.clauses)}", self._reported(cause, others)]))
        file = next(iter(cause.smallest.files), "")
        named = cause.title.partition(":")[0]  # of an exception its type, the rest as far as there is room
        fits = len(f"{number:>3} {named}… {about}, {file}") <= WIDTH
        first, second = (f"{about}, {file}".rstrip(", "), "") if fits else (about, f"{file}: ")
        title = shortened(cause.title, max(len(named) + 1, WIDTH - len(f"{number:>3}  {first}")))
        return [
            *_wrapped(f"{number:>3} {title} {first}"),
            "    " + shortened(second + cause.smallest.shown, WIDTH - 4),
        ]

    def _reported(self, cause: Cause, others: Sequence[Cause]) -> str:
        """Where it is reported, if that can be told: an anomaly of a clause that has two causes here says nothing."""
        links = self.known.links if self.known else {}
        own = {key for key in cause.keys if sum(key in other.keys for other in others) == 1}
        reported = sorted({links[key] for key in own & links.keys()})
        scripts = list(filter(None, map(finding_of, reported)))
        elsewhere = [link for link in reported if not finding_of(link)]
        return " ".join([*(["finding", *scripts] if scripts else []), *elsewhere])

    def _errors(self) -> Iterator[str]:
        for clause, result in self.totals.items():
            if result.errors:
                more = f" (and {len(result.errors) - 1} more, see -v)" if len(result.errors) > 1 else ""
                yield from ["", *_wrapped(f"{clause} error: {' '.join(result.errors[0].split())}{more}")]

    def _reasons(self) -> Iterator[str]:
        """Why clauses showed nothing, and what was refused, clauses of one reason together."""
        clauses: dict[str, list[str]] = {}
        for clause, result in self.totals.items():
            for reason in _telling(result):
                clauses.setdefault(reason, []).append(clause)
        told = [shortened(f"{' '.join(ids)} {reason}", WIDTH) for reason, ids in clauses.items()]
        if told:
            yield ""
        yield from told[:_MOST_REASONS]
        if len(told) > _MOST_REASONS:
            yield f"and {len(told) - _MOST_REASONS} more reasons, see -v"

    def _conclusion(self) -> str:
        cases = sum(result.cases for result in self.totals.values())
        seconds = sum(result.seconds for result in self.totals.values())
        said = f"part {self.part}, for lora-compat merge" if self.part else conclusion(self.totals)
        said = f"interrupted; so far {said}" if self.interrupted else said
        return f"{said}: {cases:,} cases, {cases / max(seconds, 1e-9):.0f}/s a worker"


def conclusion(totals: Mapping[str, ClauseResult]) -> str:
    """Whether every MUST that ran is green; one that was not exercised is not, and fails nothing."""
    red = red_of(totals)
    wrong = [clause for clause in red if totals[clause].verdict is not Verdict.NOT_EXERCISED]
    if len(wrong) > _MOST_CLAUSES:
        musts = sum(CONTRACT[clause].level is Level.MUST for clause in totals)
        return f"not conformant ({len(wrong)} of {musts} MUST clauses)"
    if wrong:
        return f"not conformant ({', '.join(wrong)})"
    return f"nothing failed, but {', '.join(red)} not exercised" if red else "conformant"


def shortened(text: str, width: int) -> str:
    """``text`` on one line of at most ``width`` columns."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def _together(clauses: Sequence[str]) -> str:
    """``WRAP-1/4 MATH-6``: the clauses of a chapter behind its name."""
    numbers: dict[str, list[str]] = {}
    for clause in clauses:
        chapter, _, number = clause.rpartition("-")
        numbers.setdefault(chapter, []).append(number)
    return " ".join(f"{chapter}-{'/'.join(each)}" for chapter, each in numbers.items())


def _telling(result: ClauseResult) -> list[str]:
    """The reasons that a reader has to know: of clauses without a case that showed anything, and of this machine."""
    if result.verdict in (Verdict.NOT_EXERCISED, Verdict.NOT_APPLICABLE, Verdict.REFUSED):
        return [reason for reason, _ in result.reasons.most_common(1)]
    return [reason for reason in sorted(result.reasons) if NOT_HERE in reason]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
