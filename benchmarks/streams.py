"""The practical floor of a shape: what two plain kernels take on this GPU that move its bytes and compute nothing.

The first reads as much as x and A are, the second reads as much as B and reads and writes as much as y is, all of it
once and in one piece. They wait for each other as ours do, and ask for memory as early as ours may: the first for
lines of L2, the second for B and y. What our kernels take longer is theirs; what these take longer than the floor is
the GPU's: two dependent launches, the latency of memory, too few bytes to fill it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.shapes import BYTES, Point
from benchmarks.timing import graph_microseconds
from lora_compat.kernels.launch import power_of_two
from lora_compat.kernels.triton_memory import prefetch

WORD = 4  # bytes of an int32
LINE = 32  # words of a line of the cache
PROGRAM = (1024, 2048, 4096, 8192)  # words that a program moves: the best of these counts


@triton.jit
def read_kernel(source, seen, words, share, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """``seen[program]``: the sum of a ``share`` of ``source``."""
    start = tl.program_id(0) * share
    line = tl.minimum(start + tl.arange(0, BLOCK // 32) * 32, words - 1)
    prefetch(source + line)
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()
    place = tl.arange(0, BLOCK)
    values = tl.load(source + start + place, mask=(place < share) & (start + place < words), other=0)
    tl.store(seen + tl.program_id(0), tl.sum(values))


@triton.jit
def write_kernel(  # type: ignore[no-untyped-def]
    weights, y, seen, readers, weight_words, weight_share, y_words, y_share,
    BLOCK_W: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """Adds what a share of ``weights`` and one of the readers say to a share of ``y``."""
    program = tl.program_id(0)
    place = tl.arange(0, BLOCK_W)
    there = (place < weight_share) & (program * weight_share + place < weight_words)
    values = tl.load(weights + program * weight_share + place, mask=there, other=0)
    place = tl.arange(0, BLOCK_Y)
    there = (place < y_share) & (program * y_share + place < y_words)
    target = y + program * y_share + place
    base = tl.load(target, mask=there, other=0)
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()
    tl.store(target, base + tl.sum(values) + tl.load(seen + program % readers), mask=there)


@dataclass(frozen=True)
class Streams:
    """What the pair moves, in words; ``seen`` holds a word a reader."""

    source: Tensor
    seen: Tensor
    weights: Tensor
    y: Tensor

    @classmethod
    def draw(cls, point: Point) -> Streams:
        """As many words as the tokens with an adapter and the slots in use have."""

        def words(elements: int) -> Tensor:
            return torch.randint(-100, 100, (elements * BYTES // WORD,), device="cuda", dtype=torch.int32)

        columns = sum(point.slices)
        a, b = (point.in_use * point.rank * size for size in (len(point.slices) * point.k, columns))
        source = words(point.adapted * point.k + a)
        return cls(source, source.new_empty(len(source) // min(PROGRAM) + 1), words(b), words(point.adapted * columns))

    def move(self, read: int, written: int) -> None:
        """The two launches; a program reads ``read`` words of the first, and moves ``written`` of the second."""
        readers = -(-len(self.source) // read)
        read_kernel[(readers,)](
            self.source, self.seen, len(self.source), read, BLOCK=read, num_warps=4, launch_pdl=True
        )
        programs = -(-(len(self.weights) + len(self.y)) // written)
        shares = [-(-len(part) // (programs * LINE)) * LINE for part in (self.weights, self.y)]
        block_w, block_y = (power_of_two(share, LINE, 2**16) for share in shares)
        write_kernel[(programs,)](
            self.weights, self.y, self.seen, readers, len(self.weights), shares[0], len(self.y), shares[1],
            BLOCK_W=block_w, BLOCK_Y=block_y, num_warps=4, launch_pdl=True,
        )  # fmt: skip


def plain_microseconds(point: Point) -> float:
    """Of the pair, cold, each kernel with the share a program that suits it best."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [Streams.draw(point) for _ in range(max(2, min(512, math.ceil(2.2 * l2 / point.moved))))]

    def time(read: int, written: int) -> float:
        return graph_microseconds(lambda given: given.move(read, written), sets, replays=max(7, 100 // len(sets)))

    of_reads = {read: time(read, 2048) for read in PROGRAM}
    read = min(of_reads, key=of_reads.__getitem__)
    return min(of_reads[read], *(time(read, written) for written in PROGRAM if written != 2048))
