"""Times the LoRA kernels against vLLM's Triton ops and against the floor: bytes, operations, launches.

    python -m benchmarks.kernels --output docs/results/
    python -m benchmarks.kernels --random 100 --seed 1 --output DIR

Every point adds LoRA to one layer's output: x ``[tokens, K]``, ``y += x·Aᵀ·Bᵀ`` in bfloat16. Both implementations
run in this process on the same values. One CUDA graph holds one call for each of several copies of all operands,
together more than twice the L2 cache, so that nothing is read warm; the time is the median replay over the number of
calls. The batch's metadata is made outside, for both. vLLM is left out where it cannot be imported; ``--preload NAME``
imports a module before it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

from benchmarks import kinds
from benchmarks.shapes import GRID, SHARDED, Point, random_points
from benchmarks.streams import plain_microseconds
from benchmarks.timing import (
    Call,
    Ceilings,
    Operands,
    ceilings,
    empty_launch,
    graph_microseconds,
    ours,
    relative_error,
    vllm_call,
)

LAUNCH = 1.1  # µs: an empty kernel in a CUDA graph, as measured when the goal was set; --launch says otherwise
OUR_LAUNCHES = 2


def measure(point: Point, peers: dict[str, Callable[[Point], Call]], best: Ceilings, plain: bool) -> dict[str, Any]:
    """One row: microseconds and errors of each peer, what bounds ours, and what a ``plain`` pair of kernels takes."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [Operands.draw(point, seed) for seed in range(max(2, min(512, math.ceil(2.2 * l2 / point.moved))))]
    row: dict[str, Any] = {name: value for name, value in asdict(point).items() if name != "token_slots"}
    row |= {"label": point.label, "adapted": point.adapted, "in_use": point.in_use, "fullest": point.fullest}
    row |= {"bytes_us": point.moved / best.bytes, "operations_us": point.operations / best.operations}
    row["floor_us"] = best.floor(point, OUR_LAUNCHES)
    if plain:
        row["plain_us"] = plain_microseconds(point)
    calls = {name: make(point) for name, make in peers.items()}
    for name, call in calls.items():  # before timing: that adds to the outputs of all sets
        row[f"{name}_error"] = relative_error(call, point, sets[0])
    for name, call in calls.items():
        row[f"{name}_us"] = graph_microseconds(call, sets, replays=max(9, 200 // len(sets)))
    if "vllm_us" in row:
        row["speedup"] = row["vllm_us"] / row["ours_us"]
    row["over_floor"] = row["ours_us"] / row["floor_us"]
    row["over_bytes"] = row["ours_us"] / row["bytes_us"]
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the results page."""
    lines = [
        "| shape | with adapter, slots in use | ours µs | vLLM µs | vLLM / ours | bytes µs | floor µs | ours / floor "
        "| plain µs | error ours | error vLLM |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        vllm = row.get("vllm_us", math.nan)
        lines.append(
            f"| {row['label']} | {row['adapted']}, {row['in_use']} | {row['ours_us']:.1f} | {vllm:.1f} "
            f"| {vllm / row['ours_us']:.2f} | {row['bytes_us']:.1f} | {row['floor_us']:.1f} | {row['over_floor']:.2f} "
            f"| {row.get('plain_us', math.nan):.1f} | {row['ours_error']:.2e} "
            f"| {row.get('vllm_error', math.nan):.2e} |"
        )
    return "\n".join(lines).replace("nan", "–")


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means and worst cases of some rows."""
    over = [row["over_floor"] for row in rows]
    result = {
        "shapes": len(rows),
        "geometric_mean_over_floor": geometric_mean(over),
        "worst_over_floor": max(over),
        "above_twice_the_floor": sum(ratio > 2 for ratio in over),
        "worst_error": max(row["ours_error"] for row in rows),
    }
    plain = [row["plain_us"] / row["floor_us"] for row in rows if "plain_us" in row]
    if plain:
        result["geometric_mean_plain_over_floor"] = geometric_mean(plain)
    speedups = [row["speedup"] for row in rows if "speedup" in row]
    if speedups:
        result |= {"geometric_mean_speedup": geometric_mean(speedups), "smallest_speedup": min(speedups)}
        result["worst_error_ratio"] = max(row["ours_error"] / row["vllm_error"] for row in rows)
    return result


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Time over floor of both implementations, one row a shape."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lora-compat"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.24 * len(rows) + 1.2), layout="constrained")
    height = range(len(rows))
    for name, colour in (("vllm", "#c44e52"), ("ours", "#4c72b0")):
        values = [row.get(f"{name}_us", math.nan) / row["floor_us"] for row in rows]
        axes.plot(values, height, "o", color=colour, label={"vllm": "vLLM", "ours": "lora_compat"}[name])
    axes.set(xscale="log", xlabel="time / floor", title=title)
    axes.set_yticks(list(height), [row["label"] for row in rows], fontsize=7)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="folder for NAME.json, NAME.table.md, NAME.kinds.md and NAME.svg")
    parser.add_argument("--name", default="gpu", help="of these files")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N random shapes instead of the grid")
    parser.add_argument("--seed", type=int, default=0, help="of the random shapes")
    parser.add_argument("--launch", type=float, default=LAUNCH, help="µs of a launch in the floor")
    parser.add_argument("--plain", action="store_true", help="time two plain kernels that move the same bytes, too")
    parser.add_argument("--preload", action="append", default=[], help="module to import before vLLM")
    parser.add_argument("--only", default="", help="measure shapes whose label contains this")
    return parser.parse_args()


def available_peers(preload: list[str]) -> tuple[dict[str, Callable[[Point], Call]], dict[str, str]]:
    """What can be timed here, and the versions."""
    peers: dict[str, Callable[[Point], Call]] = {"ours": ours}
    versions = {"torch": torch.__version__, "triton": version("triton")}
    try:
        for name in preload:
            importlib.import_module(name)
        importlib.import_module("vllm.lora.punica_wrapper.punica_gpu")
    except ImportError as error:
        print(f"vLLM is left out: {error}")
    else:
        versions["vllm"] = version("vllm")
        peers["vllm"] = vllm_call
    return peers, versions


def main() -> None:
    """Measures, prints, writes."""
    arguments = options()
    peers, versions = available_peers(arguments.preload)
    best, points = ceilings(arguments.launch), GRID + SHARDED
    if arguments.random:
        points = random_points(arguments.random, arguments.seed)
    rows = []
    for point in points:
        if arguments.only in point.label:
            rows.append(measure(point, peers, best, arguments.plain))
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
            torch.cuda.empty_cache()
    report = {
        "gpu": torch.cuda.get_device_name(),
        "versions": versions,
        "copy_terabytes_per_second": best.bytes / 1e6,
        "product_teraflops": best.operations / 1e6,
        "launch_microseconds": best.launch,
        "empty_kernel_microseconds": empty_launch(),
        "all": summary(rows),
        "rows": rows,
    }
    if not arguments.random and not arguments.only:
        report["grid"] = summary(rows[: len(GRID)])
    print(json.dumps({name: value for name, value in report.items() if name != "rows"}, indent=1))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        target = arguments.output / arguments.name
        target.with_suffix(".json").write_text(json.dumps(report, indent=1))
        target.with_suffix(".table.md").write_text(markdown(rows) + "\n")
        target.with_suffix(".kinds.md").write_text(kinds.markdown(rows) + "\n")
        try:
            plot(rows, f"LoRA on one layer, bfloat16, {report['gpu']}", target.with_suffix(".svg"))
        except ImportError:
            print("matplotlib is not installed: no plot")


if __name__ == "__main__":
    main()
