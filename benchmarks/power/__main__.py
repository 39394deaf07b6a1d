"""Measures the suite's detection power, and writes docs/results/power.md, power.svg and power.json.

python -m benchmarks.power [--seeds 10] [--thorough-seeds 20] [--processes 2] [--parts PART ...] [--only NAME ...]
    [--rows FILE ...] [--commit C]

Parts that are not asked for, and bugs that `--only` does not name, are kept as they were; the page says of which
commit each part is. Every row goes to standard error as it comes. `--rows` takes what other runs, on other machines
or cut short, wrote there: what they measured is not measured again.
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
from importlib.util import find_spec
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import torch

from benchmarks.power.ablations import ABLATIONS
from benchmarks.power.alarms import joined
from benchmarks.power.engines import peft_row
from benchmarks.power.hunting import CASES, suite_tests
from benchmarks.power.measuring import by_mutant
from benchmarks.power.page import page
from benchmarks.power.pairs import coverage
from benchmarks.power.planted import PLANTED
from benchmarks.power.plot import plot
from benchmarks.power.seam import planted, seam_row
from benchmarks.power.sight import sight_of, sight_rows
from benchmarks.power.tasks import MEASURES, alarm_row, mutant_row, setting_row, single_threaded
from conformance.suite.budget import PROFILES
from tests.mutants import MUTANTS as LAYERS
from tests.mutants.peft_planted import PEFT_MUTANTS
from tests.mutants.variants import VARIANTS

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PARTS = ("hunts", "names", "ideas", "alarms", "settings", "pairs", "sight", "peft", "seam")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the hunts")
    parser.add_argument(
        "--thorough-seeds", type=int, default=20, help="seeds of the reference without a bug, at the thorough profile"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--only", nargs="*", help="measure these planted bugs, and variants")
    parser.add_argument(
        "--rows", nargs="*", type=Path, default=(), help="rows that other runs wrote: not measured again"
    )
    parser.add_argument("--commit", default="", help="the commit that is measured, where git cannot be asked")
    arguments = parser.parse_args()
    arguments.commit = arguments.commit or commit()
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
            "commit": arguments.commit,
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
        return _alarms(pool, arguments, before)
    if part == "settings":
        return told(part, pool.imap(setting_row, range(len(ABLATIONS))), arguments.commit)
    if part == "sight":
        return told(part, sight_rows(pool.imap(sight_of, range(arguments.seeds))), arguments.commit)
    if part == "peft":
        hunts = pool.imap(partial(peft_row, seeds=arguments.seeds), range(len(PEFT_MUTANTS)))
        return told(part, hunts, arguments.commit)
    if part == "seam":
        return _of_the_seam(pool, arguments, before)
    return coverage()


def _of_the_seam(pool: Pool, arguments: argparse.Namespace, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each bug planted between adapter file and model; all stay as they were where there is no vLLM."""
    if find_spec("vllm") is None:
        print("seam: no vLLM here, kept as it was", file=sys.stderr)
        return before
    asked = [place for place, name in enumerate(planted()) if name in (arguments.only or planted())]
    rows = by_mutant([*before, *elsewhere("seam", arguments.rows)])
    rows |= by_mutant(told("seam", pool.imap(partial(seam_row, seeds=arguments.seeds), asked), arguments.commit))
    return [rows[name] for name in planted() if name in rows]


def _alarms(pool: Pool, arguments: argparse.Namespace, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each run of something right, whose tests are measured one by one; those not asked for are kept."""
    runs: list[tuple[int | None, int, int]] = [
        (None, seed, PROFILES["thorough"]) for seed in range(arguments.thorough_seeds)
    ]
    variants = [index for index, one in enumerate(VARIANTS) if one.name in (arguments.only or [one.name])]
    runs += [(index, 0, CASES) for index in variants]
    asked = [(*run, place) for run in runs for place in range(len(suite_tests()))]
    rows = {tuple(row["run"]): row for row in elsewhere("alarms", arguments.rows)}
    new = pool.imap_unordered(alarm_row, [one for one in asked if one not in rows])
    rows |= {tuple(row["run"]): row for row in told("alarms", new, arguments.commit)}
    found = {tuple(row["run"]): row for row in [*before, *joined(rows[one] for one in asked)]}
    return list(found.values())


def _of_bugs(part: str, pool: Pool, arguments: argparse.Namespace, before: list[dict[str, Any]]) -> Any:
    """A row for each planted bug; those not asked for are kept."""
    of_layers = {one.name for one in LAYERS}
    every = [one.name for one in PLANTED if part != "ideas" or one.name in of_layers]
    known = by_mutant(elsewhere(part, arguments.rows))
    wanted = set(arguments.only or every) - known.keys()
    asked = [index for index, one in enumerate(PLANTED) if one.name in wanted]
    measure = partial(mutant_row, part=part, seeds=arguments.seeds)
    new = told(part, pool.imap_unordered(measure, asked), arguments.commit)
    rows = by_mutant([*before, *known.values(), *new])
    return [rows[name] for name in every if name in rows]


def elsewhere(part: str, files: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of one part that other runs wrote to standard error."""
    lines = [line for file in files for line in file.read_text().splitlines() if line.startswith('{"part"')]
    found = [json.loads(line) for line in lines]
    return [row for row in found if row.pop("part") == part]


def told(part: str, rows: Iterable[dict[str, Any]], commit: str) -> list[dict[str, Any]]:
    """The rows with what they were made on, each written to standard error as it comes.

    A long measurement that is cut off leaves what it has.
    """
    found = []
    for row in rows:
        row = {**row, "commit": commit, "torch": torch.__version__}
        print(json.dumps({"part": part, **row}), file=sys.stderr, flush=True)
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
