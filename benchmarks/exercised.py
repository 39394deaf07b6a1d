"""Which MUST clauses a run exercised, each TP size by itself, from the file that ``--results`` wrote.

    pytest conformance/ -n auto --impl sglang --results results.json
    python benchmarks/exercised.py results.json docs/results/sglang.md

A clause is exercised at a TP size where a case of that size passed or failed: one that could have shown nothing, was
refused, or is declared not applicable is none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.contract import CONTRACT, Level
from conformance.judging.verdicts import ClauseResult, Verdict

TP_SIZES = (1, 2)
OF_LAYERS = ("WRAP", "UNWRAP", "RANK", "MATH", "COMM")
OF_SEVERAL_RANKS = ("MATH-6", "COMM-1")
_PREFIX = f"{Verdict.NOT_APPLICABLE.value}: "


@dataclass(frozen=True, slots=True)
class Row:
    """One clause: its verdict, the cases that showed something by TP size, and why there are none."""

    result: ClauseResult

    def applies(self, tp_size: int) -> bool:
        """Whether there can be such cases: it is not declared *not applicable*, nor about several ranks alone."""
        declared = self.result.verdict is Verdict.NOT_APPLICABLE
        return not declared and (tp_size > 1 or self.result.clause not in OF_SEVERAL_RANKS)

    def cases(self, tp_size: int) -> int:
        """How many showed something."""
        return self.result.evidence.ranks[tp_size]

    def cells(self) -> list[str]:
        """The row of the table."""
        why = ""
        if self.result.verdict is Verdict.NOT_APPLICABLE:
            reason, _ = self.result.reasons.most_common(1)[0]
            why = reason.removeprefix(_PREFIX)
        told = [f"{self.cases(size):,}" if self.applies(size) else "–" for size in TP_SIZES]
        return [self.result.clause, self.result.verdict.value, *told, why]


def rows_of(document: dict[str, Any], chapters: Sequence[str]) -> list[Row]:
    """The MUST clauses of these chapters, in the order of the contract; a clause that was not run has no cases."""
    stored = document["clauses"]
    return [
        Row(ClauseResult.from_dict(stored[clause.id]) if clause.id in stored else ClauseResult(clause.id))
        for clause in CONTRACT.values()
        if clause.level is Level.MUST and clause.chapter in chapters
    ]


def share(rows: Sequence[Row], tp_size: int) -> str:
    """How many of these clauses are exercised at a TP size."""
    exercised = sum(row.cases(tp_size) > 0 for row in rows)
    return f"{exercised} of {len(rows)} ({100 * exercised / len(rows):.0f} %)"


def page(document: dict[str, Any]) -> str:
    """The page, in Markdown."""
    run, who = document["run"], document["identity"]["implementation"]
    rows = rows_of(document, OF_LAYERS)
    applicable = {size: [row for row in rows if row.applies(size)] for size in TP_SIZES}
    lines = [
        f"# What is exercised on {who}",
        "",
        f"Written by `benchmarks/exercised.py` from the results of one run: profile {run['profile']}, "
        f"{run['cases_per_clause']} cases a clause, seed {run['seed']}.",
        "Counted are cases that passed or failed, those that shrink a failure included.",
        "",
        "| MUST clauses of layers | " + " | ".join(f"TP {size}" for size in TP_SIZES) + " |",
        "|---" * (1 + len(TP_SIZES)) + "|",
        "| of those that apply | " + " | ".join(share(applicable[size], size) for size in TP_SIZES) + " |",
        "| of all | " + " | ".join(share(rows, size) for size in TP_SIZES) + " |",
    ]
    for title, chapters in (("Layers", OF_LAYERS), ("Programs", ("TARGET", "LIFE"))):
        head = ["clause", "verdict", *(f"TP {size}" for size in TP_SIZES), "why not"]
        lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join(row.cells())} |" for row in rows_of(document, chapters)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    results, target = map(Path, sys.argv[1:])
    target.write_text(page(json.loads(results.read_text(encoding="utf-8"))), encoding="utf-8")
