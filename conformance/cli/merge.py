"""``lora-compat merge``: the parts of a run that machines shared become one certificate, or one results file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from conformance.suite.exits import Exit


def add_parser(subparsers: Any) -> None:
    """Declares the command and its options."""
    parser = subparsers.add_parser(
        "merge",
        help="join the parts of a run",
        description="Joins what the parts of one run wrote, each with --shard i/n and --certificate or --results. "
        "Refuses gaps, overlaps and parts of different runs.",
        epilog="exit codes: 0 the whole run is green, 1 it is not, 2 a clause could not be judged, 4 refused",
    )
    parser.add_argument("parts", nargs="+", type=Path, metavar="FILE", help="every part's certificate, or results")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the whole run's is written")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="known failures that do not count")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Merges, prints the verdict on every clause or class, and writes the file."""
    from conformance.certification.baseline import Baseline, BaselineError
    from conformance.certification.certificate import overall
    from conformance.cli.merging import MergeError, merged, read
    from conformance.suite.reporting import write_json

    try:
        baseline = Baseline.read(arguments.baseline) if arguments.baseline else None
        document, outcomes = merged([read(file) for file in arguments.parts])
    except (MergeError, BaselineError) as error:
        raise pytest.UsageError(str(error)) from error
    complaints = []
    if baseline is not None:
        for outcome in outcomes:
            outcome.known = baseline.known(outcome.path, outcome.failures)
        complaints = baseline.complaints(outcomes)
    if arguments.output is not None:
        write_json(arguments.output, document)
    for line in [*_screen(document, outcomes), *complaints]:
        print(line)
    if any(result.errors for outcome in outcomes for result in outcome.results.values()):
        return Exit.ERROR
    return Exit.FAILED if complaints or not overall(outcomes).ends_well else Exit.OK


def _screen(document: dict[str, Any], outcomes: list[Any]) -> list[str]:
    from conformance.suite.tables import detailed

    if "subjects" not in document:
        cases = sum(result.cases for result in outcomes[0].results.values())
        return [*detailed(outcomes[0].results), f"{document['conclusion']}: {cases} cases"]
    return [
        f"{outcome.path}: {outcome.conclusion.value}" + (f" ({', '.join(outcome.red)})" if outcome.red else "")
        for outcome in outcomes
    ]
