"""Times other launches of the kernels than the chosen ones, at 1024 tokens, where launches matter most.

    python -m benchmarks.launches --compile 0/12     # on 12 processes, 0/12 to 11/12: fills Triton's cache
    python -m benchmarks.launches --output FILE

Per shape every shrink launch is timed with the chosen expand, then every expand launch with the best shrink. Each is
compared with float64 first. The table comes last: the chosen pair and the best one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels import (
    DTYPE,
    GRID,
    SHARDED,
    Call,
    Operands,
    Point,
    copy_bandwidth,
    graph_microseconds,
    relative_error,
    token_slots,
)
from lora_compat.kernels import TokenBatch
from lora_compat.kernels.launch import ExpandLaunch, ShrinkLaunch, expand_launch, power_of_two, shrink_launch
from lora_compat.kernels.triton_expand import launch_expand
from lora_compat.kernels.triton_shrink import launch_shrink

POINTS = [point for point in GRID + SHARDED if point.tokens == 1024]
PROGRAMS = 132
SHARED_MEMORY = 100_000  # bytes a program: two fit a multiprocessor
MOST_SHARES = 8


def shrink_candidates(point: Point, batch: TokenBatch) -> list[ShrinkLaunch]:
    """The launches that fill the GPU once, by the bytes that a program reads and the shares that expand sums."""
    columns = len(point.slices) * point.rank
    found = []
    for block_m in (32, 64):
        for block_n in (16, 32, 64, 128):
            if block_n > power_of_two(columns, 16, 128):
                continue
            tiles = len(batch.tiles(block_m).slots) * -(-columns // block_n)
            split = min(MOST_SHARES, max(1, PROGRAMS // tiles))
            read = (block_m + min(block_n, columns)) * point.k / split * 2
            cost = -(-tiles * split // PROGRAMS) * read + split * columns * point.tokens * 4 / PROGRAMS * 2
            found.append((cost, block_m, block_n, split))
    launches = []
    for _, block_m, block_n, split in sorted(found)[:4]:
        widest = max(k for k in (64, 128, 256) if (block_m + block_n) * k * 2 * 4 <= SHARED_MEMORY or k == 64)
        warps = 8 if block_m * block_n > 4096 else 4
        launches.append(ShrinkLaunch(block_m, block_n, widest, split, warps, 4))
        if widest > 64:
            launches.append(ShrinkLaunch(block_m, block_n, widest // 2, split, warps, 6))
    return launches


def expand_candidates(point: Point, batch: TokenBatch) -> list[ExpandLaunch]:
    """Whole tiles of y on their way before the shrink kernel ends, and wider or taller tiles."""
    block_r = power_of_two(point.rank, 16, 64)
    now = expand_launch(batch, point.slices, point.rank, DTYPE)
    once = [(64, 64, 1, 4), (64, 128, 1, 4), (32, 128, 1, 4), (64, 128, 1, 8), (64, 64, 2, 4), (64, 128, 2, 8)]
    several = [(64, 256, 1, 8), (128, 128, now.chunk // 128, 8), (64, 256, max(1, now.chunk // 256), 8)]
    return [ExpandLaunch(m, n, block_r, n * max(1, tiles), warps) for m, n, tiles, warps in once + several]


def pair(point: Point, batch: TokenBatch, shrink: ShrinkLaunch, expand: ExpandLaunch) -> Call:
    """``add_lora`` with these launches."""
    scaling = torch.ones(point.slots, device="cuda")

    def call(given: Operands) -> None:
        partial = launch_shrink(given.x, given.lora_a, batch, dependent=True, launch=shrink)
        launch_expand(partial, given.lora_b, scaling, batch, given.y, point.slices, dependent=True, launch=expand)

    return call


def chosen(point: Point, batch: TokenBatch) -> tuple[ShrinkLaunch, ExpandLaunch]:
    """What the library launches."""
    shrink = shrink_launch(batch, len(point.slices) * point.rank, point.k, DTYPE)
    return shrink, expand_launch(batch, point.slices, point.rank, DTYPE)


def everything() -> Iterator[tuple[Point, ShrinkLaunch, ExpandLaunch]]:
    """What may have to be compiled: every shrink with the chosen expand, every expand with each number of shares."""
    seen: set[tuple[object, ...]] = set()
    for point in POINTS:
        batch = TokenBatch.of(token_slots(point), "cuda")
        shrink, expand = chosen(point, batch)
        shrinks = [shrink, *shrink_candidates(point, batch)]
        of_shares = {one.split: one for one in shrinks}
        pairs = [(one, expand) for one in shrinks]
        pairs += [(one, other) for one in of_shares.values() for other in expand_candidates(point, batch)]
        for one, other in pairs:
            keys = {(*one, point.slices), (*other[:3], other.num_warps, one.split, len(point.slices))}
            if keys - seen:
                seen |= keys
                yield point, one, other


def compile_share(share: str) -> None:
    """Launches every N-th of `everything` once; what does not compile is skipped here and named when it is timed."""
    index, count = map(int, share.split("/"))
    for number, (point, shrink, expand) in enumerate(everything()):
        if number % count == index:
            try:
                batch = TokenBatch.of(token_slots(point), "cuda")
                pair(point, batch, shrink, expand)(Operands.draw(point, 0))
                torch.cuda.synchronize()
            except Exception as error:
                print(f"{point.label}: {shrink} {expand}: {type(error).__name__}: {str(error)[:100]}", flush=True)


# Of one rounding of y to bfloat16, wherever the mantissas lie: timing adds to y again and again.
ONE_ROUNDING = 2.0**-8


def measure(point: Point, bandwidth: float, until: float) -> dict[str, Any]:
    """The times of the chosen pair and of the candidates, best first."""
    batch = TokenBatch.of(token_slots(point), "cuda")
    columns, hidden = sum(point.slices), len(point.slices) * point.rank
    weights = len(set(token_slots(point))) * (hidden * point.k + columns * point.rank)
    moved = 2 * (point.tokens * (point.k + 2 * columns) + weights)
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [Operands.draw(point, seed) for seed in range(max(2, math.ceil(2.2 * l2 / moved)))]
    times: list[tuple[float, ShrinkLaunch, ExpandLaunch]] = []

    def try_out(shrink: ShrinkLaunch, expand: ExpandLaunch) -> None:
        if time.monotonic() > until and times:
            return
        call = pair(point, batch, shrink, expand)
        try:
            error = relative_error(call, point, sets[0])
            if not error <= ONE_ROUNDING:
                print(f"{point.label}: WRONG, error {error:.1e}: {shrink} {expand}", flush=True)
                return
            times.append((graph_microseconds(call, sets, replays=15), shrink, expand))
        except Exception as failure:
            print(f"{point.label}: {shrink} {expand}: {type(failure).__name__}: {str(failure)[:100]}", flush=True)

    shrink, expand = chosen(point, batch)
    try_out(shrink, expand)
    for one in shrink_candidates(point, batch):
        try_out(one, expand)
    best = min(times, key=lambda found: found[0])[1]
    for other in expand_candidates(point, batch):
        try_out(best, other)
    ranked = sorted(times, key=lambda found: found[0])
    return {**asdict(point), "label": point.label, "floor_us": moved / bandwidth, "now": times[0], "ranked": ranked}


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    (now, *_), (best, shrink, expand) = row["now"], row["ranked"][0]
    floor = row["floor_us"]
    return (
        f"| {row['label']} | {now:.1f} | {now / floor:.2f} | {best:.1f} | {best / floor:.2f} "
        f"| {tuple(shrink)} | {tuple(expand)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--compile", metavar="I/N", help="compile this share of the launches and end")
    parser.add_argument("--output", type=Path, help="file for all times, as JSON")
    parser.add_argument("--seconds", type=float, default=45.0, help="after so many seconds no candidate is begun")
    arguments = parser.parse_args()
    if arguments.compile:
        compile_share(arguments.compile)
        return
    started, bandwidth, rows = time.monotonic(), copy_bandwidth(), []
    for number, point in enumerate(POINTS):
        share = arguments.seconds * (number + 1) / len(POINTS)
        rows.append(measure(point, bandwidth, started + share))
        torch.cuda.empty_cache()
        if arguments.output:
            arguments.output.write_text(json.dumps(rows, indent=1))
    print("shrink: (m, n, k, split, warps, stages); expand: (m, n, r, chunk, warps)")
    print("| shape | now µs | now / floor | best µs | best / floor | shrink | expand |")
    print("|---|--:|--:|--:|--:|---|---|")
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
