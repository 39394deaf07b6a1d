"""Measures the suite's detection power, and writes docs/results/power.md, power.svg and power.json.

python -m benchmarks.power [--seeds 10] [--thorough-seeds 20] [--processes 2] [--parts PART ...] [--only NAME ...]

Parts that are not asked for, and bugs that `--only` does not name, are kept as they were; the page says of which
commit each part is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import torch

from benchmarks.power.ablations import ABLATIONS
from benchmarks.power.engines import peft_row
from benchmarks.power.hunting import CASES
from benchmarks.power.measuring import by_mutant
from benchmarks.power.page import page
from benchmarks.power.pairs import coverage
from benchmarks.power.planted import PLANTED
from benchmarks.power.plot import plot
from benchmarks.power.sight import sight_of, sight_rows
from benchmarks.power.tasks import MEASURES, alarm_row, mutant_row, setting_row, single_threaded
from conformance.suite.budget import PROFILES
from tests.mutants import MUTANTS as LAYERS
from tests.mutants.peft_planted import PEFT_MUTANTS
from tests.mutants.variants import VARIANTS

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PARTS = ("hunts", "names", "ideas", "alarms", "settings", "pairs", "sight", "peft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the hunts")
    parser.add_argument(
        "--thorough-seeds", type=int, default=20, help="seeds of the reference without a bug, at the thorough profile"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--only", nargs="*", help="measure these planted bugs")
    arguments = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(arguments.processes, single_threaded, maxtasksperchild=20) as pool:
        write({**measured(pool, arguments), "cases": CASES})


def measured(pool: Pool, arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for, each with what it was made on, and the others as they were."""
    kept = RESULTS / "power.json"
    data: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    made = data.setdefault("made", {})
    for part in arguments.parts:
        started = time.perf_counter()
        data[part] = _part(part, pool, arguments, data.get(part, []))
        seconds = time.perf_counter() - started
        made[part] = {
            "torch": torch.__version__,
            "processes": arguments.processes,
            "seconds": seconds,
            "seeds": arguments.seeds,
            "commit": commit(),
            "load": os.getloadavg()[2],
        }
    return data


def commit() -> str:
    """The commit that is measured."""
    asked = ("git", "rev-parse", "--short=7", "HEAD")
    return subprocess.run(asked, cwd=RESULTS, check=True, capture_output=True, text=True).stdout.strip()


def _part(part: str, pool: Pool, arguments: argparse.Namespace, before: Any) -> Any:
    if part in MEASURES:
        return _of_bugs(part, pool, arguments, before)
    if part == "alarms":
        seeds: list[tuple[int | None, int, int]] = [
            (None, seed, PROFILES["thorough"]) for seed in range(arguments.thorough_seeds)
        ]
        variants: list[tuple[int | None, int, int]] = [(index, 0, CASES) for index in range(len(VARIANTS))]
        return told(pool.imap(alarm_row, seeds + variants))
    if part == "settings":
        return told(pool.imap(setting_row, range(len(ABLATIONS))))
    if part == "sight":
        return told(sight_rows(pool.imap(sight_of, range(arguments.seeds))))
    if part == "peft":
        return told(pool.imap(partial(peft_row, seeds=arguments.seeds), range(len(PEFT_MUTANTS))))
    return coverage()


def _of_bugs(part: str, pool: Pool, arguments: argparse.Namespace, before: list[dict[str, Any]]) -> Any:
    """A row for each planted bug; those not asked for are kept."""
    of_layers = {one.name for one in LAYERS}
    every = [one.name for one in PLANTED if part != "ideas" or one.name in of_layers]
    asked = [index for index, one in enumerate(PLANTED) if one.name in (arguments.only or every)]
    stamp = commit()
    new = told(pool.imap(partial(mutant_row, part=part, seeds=arguments.seeds), asked))
    rows = by_mutant([*before, *({**row, "commit": stamp} for row in new)])
    return [rows[name] for name in every if name in rows]


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
