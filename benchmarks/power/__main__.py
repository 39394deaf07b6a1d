"""Measures the suite's detection power, and writes docs/results/power.md, power.svg and power.json.

python -m benchmarks.power [--seeds 10] [--alarm-seeds 20] [--thorough-seeds 3] [--processes 2] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.power.ablations import ABLATIONS
from benchmarks.power.hunting import CASES, clause_tests
from benchmarks.power.page import page
from benchmarks.power.pairs import coverage
from benchmarks.power.plot import plot
from benchmarks.power.tasks import alarm_row, mutant_row, setting_row, single_threaded
from conformance.checking import PROFILES
from tests.mutants import MUTANTS
from tests.mutants.variants import VARIANTS

RESULTS = Path(__file__).parents[2] / "docs" / "results"
VARIANT_SEEDS = range(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the hunts")
    parser.add_argument("--alarm-seeds", type=int, default=20, help="seeds of the reference without a bug")
    parser.add_argument(
        "--thorough-seeds", type=int, default=3, help="the same, with the cases of the thorough profile"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="measure these mutants and print them; writes nothing")
    arguments = parser.parse_args()
    started = time.perf_counter()
    chosen = [index for index, one in enumerate(MUTANTS) if not arguments.only or one.name in arguments.only]
    with multiprocessing.get_context("spawn").Pool(arguments.processes, single_threaded) as pool:
        mutants = told(pool.imap(partial(mutant_row, seeds=arguments.seeds), chosen))
        if arguments.only:
            print(json.dumps(mutants, indent=2))
            return
        seeds = [(None, seed, CASES) for seed in range(arguments.alarm_seeds)]
        thorough = [(None, 100 + seed, PROFILES["thorough"]) for seed in range(arguments.thorough_seeds)]
        variants = [(index, seed, CASES) for index in range(len(VARIANTS)) for seed in VARIANT_SEEDS]
        alarms = told(pool.imap(alarm_row, seeds + thorough + variants))
        settings = told(pool.imap(setting_row, range(len(ABLATIONS))))
    data = {
        "torch": torch.__version__,
        "cases": CASES,
        "seeds": arguments.seeds,
        "clauses": list(clause_tests()),
        "mutants": mutants,
        "alarms": alarms,
        "settings": settings,
        "pairs": coverage(),
        "seconds": time.perf_counter() - started,
    }
    write(data)


def told(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each written to standard error as it comes: a long measurement that is cut off leaves what it has."""
    found = []
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
        found.append(row)
    return found


def write(data: dict[str, Any]) -> None:
    """The page, the plot and the figures behind them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "power.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / "power.md").write_text(page(data))
    (RESULTS / "power.svg").write_text(plot(data))


if __name__ == "__main__":
    main()
