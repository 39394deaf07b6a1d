"""``lora-compat replay``: which stored failures are fixed."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from conformance.suite.exits import Exit

DEFAULT_STORE = Path(".lora_compat/regressions")


def add_parser(subparsers: Any) -> None:
    """Declares the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay",
        help="run stored failures again",
        description="Runs stored failures again and prints FIXED, STILL FAILS or ERROR for each. "
        "Exit code 0: all fixed; 1: one still fails; 2: one could not be run.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="FILE|ID|DIR",
        help="a stored failure (.json), a test file (.py), the beginning of an id, or a directory; default: the store",
    )
    parser.add_argument("--impl", help="the implementation to run on; default: the one each failure was found with")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write what became of each failure, as JSON")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, help=f"the store (default: {DEFAULT_STORE})")


def run(args: argparse.Namespace) -> int:
    """Prints one line a failure, and how many there are of each."""
    import pytest

    from conformance.cli.replaying import NothingToReplay, Status, replay, subject_of
    from conformance.regressions.store import Store
    from conformance.subjects.outcomes import HarnessError
    from conformance.subjects.subject import Subject

    @cache
    def subject_for(impl: str) -> Subject:
        try:
            return subject_of(impl)
        except pytest.UsageError as error:
            if args.impl:
                raise
            raise HarnessError(str(error)) from error

    counts: Counter[Status] = Counter()
    results = []
    try:
        for replayed in replay(args.what, Store(args.store), subject_for, args.impl):
            counts[replayed.status] += 1
            results.append(replayed.to_dict())
            print(replayed, flush=True)
    except NothingToReplay as error:
        raise pytest.UsageError(str(error)) from error
    if args.results is not None:
        args.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status]))
    if counts[Status.ERROR]:
        return Exit.ERROR
    return Exit.FAILED if counts[Status.STILL_FAILS] else Exit.OK
