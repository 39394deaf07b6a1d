"""Times the other launches of the space than the chosen ones: how far is the choice from the best?

    python -m benchmarks.launches --random 30 --seed 7 --compile 0/12     # on 12 processes: fills Triton's cache
    python -m benchmarks.launches --random 30 --seed 7 --output FILE

Per shape every shrink launch of the space is timed with the chosen expand, then every expand launch with the best
shrink. Each is compared with float64 first. The table comes last: the chosen pair and the best one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import GRID, SHARDED, Point, random_points
from benchmarks.timing import DTYPE, Call, Operands, ceilings, graph_microseconds, relative_error
from lora_compat.kernels import TokenBatch
from lora_compat.kernels.expand_launches import STEP, ExpandLaunch, expand_launch, expand_launches, walked_launch
from lora_compat.kernels.launch import multiprocessors
from lora_compat.kernels.shrink_launches import ShrinkLaunch, shrink_launch, shrink_launches
from lora_compat.kernels.triton_expand import launch_expand
from lora_compat.kernels.triton_shrink import launch_shrink

ONE_ROUNDING = 2.0**-8  # of y to bfloat16, wherever the mantissas lie: timing adds to y again and again


def pair(point: Point, batch: TokenBatch, shrink: ShrinkLaunch, expand: ExpandLaunch) -> Call:
    """``add_lora`` with these launches."""
    scaling = torch.ones(point.slots, device="cuda")

    def call(given: Operands) -> None:
        partial = launch_shrink(given.x, given.lora_a, batch, dependent=True, launch=shrink)
        launch_expand(partial, given.lora_b, scaling, batch, given.y, point.slices, dependent=True, launch=expand)

    return call


def chosen(point: Point, batch: TokenBatch) -> tuple[ShrinkLaunch, ExpandLaunch]:
    """What the library launches."""
    shrink = shrink_launch(batch, len(point.slices), point.rank, point.k, DTYPE)
    return shrink, expand_launch(batch, point.slices, point.rank, DTYPE, shrink.split)


def others(point: Point, batch: TokenBatch) -> tuple[list[ShrinkLaunch], list[ExpandLaunch]]:
    """Everything that the costs choose from; tiles of one token are not chosen by cost."""
    programs = multiprocessors(torch.device("cuda", 0))
    columns, groups = len(point.slices) * point.rank, batch.group_sizes
    shrinks = dict.fromkeys(shrink_launches(groups, columns, point.k, wide=False, programs=programs))
    expands = dict.fromkeys(expand_launches(groups, point.slices, point.rank, DTYPE, programs))
    if point.rank > STEP:
        expands |= {walked_launch(groups, DTYPE): None}
    return list(shrinks), list(expands)


def everything(points: list[Point]) -> Iterator[tuple[Point, ShrinkLaunch, ExpandLaunch]]:
    """What has to be compiled: every shrink, and every expand with each number of shares."""
    seen: set[tuple[object, ...]] = set()
    for point in points:
        batch = TokenBatch.of(point.token_slots, "cuda")
        shrinks, expands = others(point, batch)
        of_shares = {shrink.split: shrink for shrink in shrinks}
        for shrink in (*shrinks, chosen(point, batch)[0]):
            for expand in expands if shrink in of_shares.values() else expands[:1]:
                keys = {(shrink[:3], point.slices), (expand[:3], expand[4:], shrink.split, len(point.slices))}
                if keys - seen:
                    seen |= keys
                    yield point, shrink, expand


def compile_share(points: list[Point], share: str) -> None:
    """Launches every N-th of `everything` once."""
    index, count = map(int, share.split("/"))
    for number, (point, shrink, expand) in enumerate(everything(points)):
        if number % count == index:
            batch = TokenBatch.of(point.token_slots, "cuda")
            pair(point, batch, shrink, expand)(Operands.draw(point, 0))
            torch.cuda.synchronize()


def measure(point: Point, until: float) -> dict[str, Any]:
    """The times of the chosen pair and of the others, best first; none is begun after ``until``."""
    batch = TokenBatch.of(point.token_slots, "cuda")
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [Operands.draw(point, seed) for seed in range(max(2, min(400, math.ceil(2.2 * l2 / point.moved))))]
    times: list[tuple[float, ShrinkLaunch, ExpandLaunch]] = []

    def try_out(shrink: ShrinkLaunch, expand: ExpandLaunch) -> None:
        if time.monotonic() > until and times:
            return
        call = pair(point, batch, shrink, expand)
        error = relative_error(call, point, sets[0])
        if error <= ONE_ROUNDING:
            times.append((graph_microseconds(call, sets, replays=7), shrink, expand))
        else:
            print(f"{point.label}: WRONG, error {error:.1e}: {shrink} {expand}", flush=True)

    shrinks, expands = others(point, batch)
    shrink, expand = chosen(point, batch)
    try_out(shrink, expand)
    for one in shrinks:
        try_out(one, expand)
    best = min(times)[1]
    for other in expands:
        try_out(best, other)
    floor = ceilings(1.1).floor(point, 2)
    return {"label": point.label, "floor_us": floor, "now": times[0], "ranked": sorted(times)}


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    (now, *_), (best, shrink, expand) = row["now"], row["ranked"][0]
    floor = row["floor_us"]
    return (
        f"| {row['label']} | {now:.1f} | {now / floor:.2f} | {best:.1f} | {best / floor:.2f} "
        f"| {tuple(shrink)} | {tuple(expand)} |"
    )


def main() -> None:
    """Compiles, or measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N random shapes instead of the grid")
    parser.add_argument("--seed", type=int, default=0, help="of the random shapes")
    parser.add_argument("--compile", metavar="I/N", help="compile this share of the launches and end")
    parser.add_argument("--output", type=Path, help="file for all times, as JSON")
    parser.add_argument("--seconds", type=float, default=120.0, help="after so many seconds no launch is begun")
    arguments = parser.parse_args()
    points = random_points(arguments.random, arguments.seed) if arguments.random else GRID + SHARDED
    if arguments.compile:
        compile_share(points, arguments.compile)
        return
    started, rows = time.monotonic(), []
    for number, point in enumerate(points):
        rows.append(measure(point, started + arguments.seconds * (number + 1) / len(points)))
        torch.cuda.empty_cache()
        if arguments.output:
            arguments.output.write_text(json.dumps(rows, indent=1))
    print("shrink: (m, n, k, split, warps, stages); expand: (m, n, r, chunk, warps, stages)")
    print("| shape | now µs | now / floor | best µs | best / floor | shrink | expand |")
    print("|---|--:|--:|--:|--:|---|---|")
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
