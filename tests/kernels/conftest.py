"""Runs the Triton kernels compiled where there is a GPU, in Triton's interpreter where there is none."""

from collections.abc import Iterator

import pytest
import torch


def interpret(patch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        patch.setenv("TRITON_INTERPRET", "1")


# Triton decides at import whether a kernel is interpreted. The variable goes away again at once: the rest of
# a test run must not find its CPU tensors sent to the interpreter.
with pytest.MonkeyPatch.context() as _patch:
    interpret(_patch)
    import planted  # noqa: F401

    import lora_compat.kernels.triton_ops  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def interpreted_where_there_is_no_gpu() -> Iterator[None]:
    """Triton asks again at every launch."""
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch)
        yield
