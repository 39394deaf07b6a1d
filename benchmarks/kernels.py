"""Times the LoRA kernels against vLLM's Triton ops and against the bytes that must move.

    python benchmarks/kernels.py --output docs/results/

Every point adds LoRA to one layer's output: x ``[tokens, K]``, ``y += x·Aᵀ·Bᵀ`` in bfloat16, tokens dealt to
slots at random. Both implementations run in this process on the same values. One CUDA graph holds one call for
each of several copies of all operands, together more than twice the L2 cache, so that nothing is read warm; the
time is the median replay over the number of calls. The batch's metadata is made outside, for both. vLLM is left
out where it cannot be imported; ``--preload NAME`` imports a module before it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import torch
from torch import Tensor

from lora_compat.kernels import TokenBatch, add_lora

DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Point:
    """One shape of the grid."""

    tokens: int
    slices: tuple[int, ...]
    rank: int
    slots: int
    k: int = 4096
    note: str = ""

    @property
    def label(self) -> str:
        sizes = "+".join(map(str, self.slices))
        return f"{self.tokens} × {self.k} → {sizes}, rank {self.rank}, {self.slots} slots{self.note}"


TOKENS = (1, 16, 128, 1024, 8192)
SLICES = ((4096,), (4096, 1024, 1024), (14336, 14336))
ADAPTERS = ((16, 1), (64, 8))
GRID = [Point(t, s, rank, slots) for t in TOKENS for s in SLICES for rank, slots in ADAPTERS]
SHARDED = [
    Point(16, (1024, 256, 256), 64, 8, note=" (N / 4)"),
    Point(16, (3584, 3584), 16, 1, note=" (N / 4)"),
    Point(16, (4096,), 64, 8, k=3584, note=" (K / 4)"),
    Point(16, (4096,), 16, 1, k=1792, note=" (K / 8)"),
    Point(1024, (1024, 256, 256), 64, 8, note=" (N / 4)"),
    Point(1024, (1792, 1792), 16, 1, note=" (N / 8)"),
    Point(8192, (3584, 3584), 64, 8, note=" (N / 4)"),
    Point(8192, (4096,), 16, 1, k=1792, note=" (K / 8)"),
]


@dataclass(frozen=True)
class Operands:
    x: Tensor
    lora_a: Tensor  # [slots, slices, rank, k]
    lora_b: Tensor  # [slots, columns, rank]
    y: Tensor

    @classmethod
    def draw(cls, point: Point, seed: int) -> Operands:
        generator = torch.Generator("cuda").manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, device="cuda", generator=generator) * scale).to(DTYPE)

        columns = sum(point.slices)
        return cls(
            normal(point.tokens, point.k),
            normal(point.slots, len(point.slices), point.rank, point.k, scale=point.k**-0.5),
            normal(point.slots, columns, point.rank, scale=point.rank**-0.5),
            normal(point.tokens, columns),
        )


Call = Callable[[Operands], None]


def token_slots(point: Point) -> list[int]:
    generator = torch.Generator().manual_seed(point.tokens)
    return torch.randint(point.slots, (point.tokens,), generator=generator).tolist()


def ours(point: Point) -> Call:
    batch = TokenBatch.of(token_slots(point), "cuda")
    scaling = torch.ones(point.slots, device="cuda")

    def call(given: Operands) -> None:
        add_lora(given.x, given.lora_a, given.lora_b, scaling, batch, given.y, slice_sizes=point.slices)

    return call


def vllm_call(point: Point) -> Call:
    """``add_lora_linear`` of vLLM's Punica wrapper, metadata set."""
    from vllm.config.lora import LoRAConfig
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.ops.triton_ops import utils
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

    # Keyed by address and never emptied, while the allocator gives addresses out again.
    utils._LORA_A_PTR_DICT.clear()
    utils._LORA_B_PTR_DICT.clear()
    config = LoRAConfig(max_lora_rank=point.rank, max_loras=point.slots, lora_dtype=DTYPE)
    wrapper = PunicaWrapperGPU(point.tokens, max_batches=point.tokens, device="cuda", lora_config=config)
    ids = tuple(slot + 1 for slot in token_slots(point))
    mapping = LoRAMapping(ids, ids, is_prefill=point.tokens > 128)
    wrapper.update_metadata(mapping, list(range(1, point.slots + 1)), point.slots + 1, 32000)
    stacked: dict[int, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {}

    def call(given: Operands) -> None:
        if id(given) not in stacked:  # vLLM keeps one [slots, 1, rank, k] tensor a slice
            a = tuple(part.contiguous() for part in given.lora_a.split(1, dim=1))
            b = tuple(part.contiguous().unsqueeze(1) for part in given.lora_b.split(list(point.slices), dim=1))
            stacked[id(given)] = (a, b)
        a, b = stacked[id(given)]
        wrapper.add_lora_linear(given.y, given.x, a, b, 1.0, point.slices)

    return call


def graph_microseconds(call: Call, sets: list[Operands], replays: int) -> float:
    """Median time of one call, replayed from a graph of ``len(sets)`` calls."""
    for given in sets:  # compiles, and fills every cache
        call(given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for given in sets:
            call(given)
    times = []
    for _ in range(replays + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / len(sets))
    return median(times[3:])


def copy_bandwidth() -> float:
    """Bytes per microsecond that a large device-to-device copy reads plus writes."""
    source, target = (torch.randn(2**29, device="cuda") for _ in range(2))
    graph_time = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        graph_time.append(start.elapsed_time(end) * 1000)
    return 2 * source.nbytes / median(graph_time)


def relative_error(call: Call, point: Point, given: Operands) -> float:
    """‖y − exact‖ / ‖exact‖ with the exact result in float64 from the same bfloat16 operands."""
    exact = given.y.double()
    slots = torch.tensor(token_slots(point), device="cuda")
    for slot in range(point.slots):
        rows = (slots == slot).nonzero()[:, 0]
        hidden = torch.einsum("tk,lrk->tlr", given.x[rows].double(), given.lora_a[slot].double())
        for index, weights in enumerate(given.lora_b[slot].split(list(point.slices))):
            first = sum(point.slices[:index])
            exact[rows, first : first + len(weights)] += hidden[:, index] @ weights.double().t()
    fresh = Operands(given.x, given.lora_a, given.lora_b, given.y.clone())
    call(fresh)
    return float((fresh.y.double() - exact).norm() / exact.norm())


def measure(point: Point, peers: dict[str, Callable[[Point], Call]], bandwidth: float) -> dict[str, Any]:
    in_use = len(set(token_slots(point)))
    columns, hidden = sum(point.slices), len(point.slices) * point.rank
    weights = in_use * (hidden * point.k + columns * point.rank)
    moved = 2 * (point.tokens * (point.k + 2 * columns) + weights)
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [Operands.draw(point, seed) for seed in range(max(2, min(512, math.ceil(2.2 * l2 / moved))))]
    row: dict[str, Any] = {**asdict(point), "label": point.label, "floor_us": moved / bandwidth}
    calls = {name: make(point) for name, make in peers.items()}
    for name, call in calls.items():  # before timing: that adds to the outputs of all sets
        row[f"{name}_error"] = relative_error(call, point, sets[0])
    for name, call in calls.items():
        row[f"{name}_us"] = graph_microseconds(call, sets, replays=max(15, 400 // len(sets)))
    if "vllm_us" in row:
        row["speedup"] = row["vllm_us"] / row["ours_us"]
    row["over_floor"] = row["ours_us"] / row["floor_us"]
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| shape | ours µs | vLLM µs | vLLM / ours | floor µs | ours / floor | error ours | error vLLM |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        vllm = row.get("vllm_us", math.nan)
        lines.append(
            f"| {row['label']} | {row['ours_us']:.1f} | {vllm:.1f} | {vllm / row['ours_us']:.2f} "
            f"| {row['floor_us']:.1f} | {row['over_floor']:.2f} "
            f"| {row['ours_error']:.2e} | {row.get('vllm_error', math.nan):.2e} |"
        )
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    speedups = [row["speedup"] for row in rows if "speedup" in row]
    large = [row["over_floor"] for row in rows if row["tokens"] >= 1024]
    result = {"worst_over_floor_from_1024_tokens": max(large, default=math.nan)}
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
    axes.set(xscale="log", xlabel="time / time to move the bytes", title=title)
    axes.set_yticks(list(height), [row["label"] for row in rows], fontsize=7)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="folder for gpu.json, gpu.table.md and gpu.svg")
    parser.add_argument("--preload", action="append", default=[], help="module to import before vLLM")
    parser.add_argument("--only", default="", help="measure shapes whose label contains this")
    arguments = parser.parse_args()

    peers: dict[str, Callable[[Point], Call]] = {"ours": ours}
    versions = {"torch": torch.__version__, "triton": importlib.import_module("triton").__version__}
    try:
        for name in arguments.preload:
            importlib.import_module(name)
        importlib.import_module("vllm.lora.punica_wrapper.punica_gpu")
        versions["vllm"] = importlib.import_module("importlib.metadata").version("vllm")
        peers["vllm"] = vllm_call
    except ImportError as error:
        print(f"vLLM is left out: {error}")

    bandwidth = copy_bandwidth()
    rows = []
    for point in GRID + SHARDED:
        if arguments.only in point.label:
            rows.append(measure(point, peers, bandwidth))
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
            torch.cuda.empty_cache()
    report = {
        "gpu": torch.cuda.get_device_name(),
        "versions": versions,
        "copy_terabytes_per_second": bandwidth / 1e6,
        "grid": summary(rows[: len(GRID)]),
        "all": summary(rows),
        "rows": rows,
    }
    print(json.dumps({name: value for name, value in report.items() if name != "rows"}, indent=1))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "gpu.json").write_text(json.dumps(report, indent=1))
        (arguments.output / "gpu.table.md").write_text(markdown(rows) + "\n")
        try:
            plot(rows, f"LoRA on one layer, bfloat16, {report['gpu']}", arguments.output / "gpu.svg")
        except ImportError:
            print("matplotlib is not installed: no plot")


if __name__ == "__main__":
    main()
