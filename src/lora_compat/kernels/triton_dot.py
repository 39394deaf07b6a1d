"""Matrix products that lose nothing but what float32 sums lose."""

from __future__ import annotations

import triton
import triton.language as tl

# Triton's interpreter computes with numpy, which has no bfloat16.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit  # type: ignore[untyped-decorator]
def dot(left, right, total):  # type: ignore[no-untyped-def]
    """``total + left · right`` in float32, both factors of one dtype; float32 factors are not cut to TF32."""
    if INTERPRETED:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def dot_with_float32(hidden, weights, total):  # type: ignore[no-untyped-def]
    """``total + hidden · weights`` for float32 ``hidden``, ``weights`` of any dtype, no bit of either lost.

    Tensor cores multiply bfloat16 exactly and add in float32. A float32 is the sum of three bfloat16 (3 · 8
    bits of mantissa, the same exponents) and a float16 of two, so three or six products do without rounding.
    """
    if weights.dtype == tl.float32:
        total = dot(hidden, weights, total)
    else:
        high = weights.to(tl.bfloat16)
        low = (weights.to(tl.float32) - high.to(tl.float32)).to(tl.bfloat16)
        for _ in tl.static_range(3):
            part = hidden.to(tl.bfloat16)
            total = dot(part, high, total)
            if weights.dtype == tl.float16:
                total = dot(part, low, total)
            hidden -= part.to(tl.float32)
    return total
