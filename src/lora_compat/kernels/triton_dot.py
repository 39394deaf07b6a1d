"""Matrix products that lose nothing but what float32 sums lose."""

from __future__ import annotations

import triton
import triton.language as tl

# Triton's interpreter computes with numpy, which has no bfloat16.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def dot(left, right, total):  # type: ignore[no-untyped-def]
    """``total + left · right`` in float32, both factors of one dtype; float32 factors are not cut to TF32."""
    if INTERPRETED:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def thirds(hidden, weights_dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float32 ``hidden`` as factors for tensor cores: three bfloat16 whose sum is ``hidden``, bit for bit.

    Each takes 8 of the 24 bits of mantissa and has float32's exponents. Float32 weights take it whole.
    """
    if weights_dtype == tl.float32:
        high, middle, low = hidden, hidden, hidden
    else:
        high = hidden.to(tl.bfloat16)
        rest = hidden - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return high, middle, low


@triton.jit
def dot_thirds(high, middle, low, weights, total):  # type: ignore[no-untyped-def]
    """``total + hidden · weights`` where the first three are ``thirds(hidden)``, nothing lost but in the sums."""
    if weights.dtype == tl.float32:
        total = dot(high, weights, total)
    else:
        coarse = weights.to(tl.bfloat16)
        total = dot(low, coarse, total)
        total = dot(middle, coarse, total)
        total = dot(high, coarse, total)
        if weights.dtype == tl.float16:  # two bfloat16 make a float16
            fine = (weights.to(tl.float32) - coarse.to(tl.float32)).to(tl.bfloat16)
            total = dot(low, fine, total)
            total = dot(middle, fine, total)
            total = dot(high, fine, total)
    return total
