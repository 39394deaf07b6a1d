"""What the kernels ask of memory: lines before they are needed, and the shares of K added up."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def prefetch(pointers):  # type: ignore[no-untyped-def]
    """Brings the lines of these addresses to L2 and reads nothing: who writes them later is still seen."""
    addresses = pointers.to(tl.int64, bitcast=True)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [addresses], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit  # type: ignore[untyped-decorator]
def sum_of_shares(pointers, stride, mask, SPLIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sum of what lies at ``pointers`` and 1, 2, … ``SPLIT`` - 1 strides further, always in the same order."""
    total = tl.load(pointers, mask=mask, other=0.0)
    for _ in tl.static_range(SPLIT - 1):
        pointers += stride
        total += tl.load(pointers, mask=mask, other=0.0)
    return total
