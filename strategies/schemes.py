"""Cases of an implementation's own quantization schemes, by the names that checkpoints give them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from strategies.choices import mostly, numbers, sampled
from strategies.codec import Named, Spec
from strategies.groupings import batches


class Scheme(Named):
    """A scheme as a checkpoint's ``quantization_config`` names it."""

    FP8_CHANNEL_TOKEN = "compressed-tensors W8A8 FP8, a scale per row and per token"
    QUARK_FP8 = "Quark FP8, a scale per row and per token"
    MODELOPT_FP8 = "ModelOpt FP8, a scale per tensor"
    FP8_STATIC = "compressed-tensors W8A8 FP8, a scale per tensor"
    FP8_BLOCK = "compressed-tensors W8A8 FP8 in blocks"
    FP8_WEIGHT_ONLY = "compressed-tensors W8A16 FP8"
    INT8 = "compressed-tensors W8A8 int8"
    INT4_PACKED = "compressed-tensors W4A16 int4 in groups"
    CHECKPOINT_FP8 = "FP8 of a checkpoint, a scale per tensor"
    CHECKPOINT_FP8_BLOCK = "FP8 of a checkpoint, in blocks"
    GPTQ = "GPTQ, 4 bit"
    AWQ = "AWQ, 4 bit"


@dataclass(frozen=True, slots=True, repr=False)
class SchemeCase(Spec):
    """One column-parallel layer, TP 1, whose weight ``scheme`` stores, with one adapter.

    ``tokens`` has 0 for a token with the adapter and -1 for one without. The sizes are multiples of every group and
    block that the schemes ask for; all values are small integers, a pure function of ``seed``.
    """

    scheme: Scheme = Scheme.FP8_CHANNEL_TOKEN
    columns: int = 128
    rows: int = 128
    rank: int = 1
    tokens: tuple[int, ...] = (0,)
    seed: int = 0


def scheme_cases() -> SearchStrategy[SchemeCase]:
    """Cases of every scheme, each as often; shrinks to one token."""
    return _scheme_cases()


@composite
def _scheme_cases(draw: DrawFn) -> SchemeCase:
    return SchemeCase(
        scheme=draw(sampled(tuple(Scheme), "scheme")),
        columns=draw(sampled((128, 256), "columns")),
        rows=draw(sampled((128, 256), "rows")),
        rank=draw(mostly(tuple(range(1, 9)), (63, 64, 65, 128), "rank")),
        tokens=draw(batches((0, -1), few=4)),
        seed=draw(numbers(1 << 16, "seed")),
    )
