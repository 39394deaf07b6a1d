"""Models in double precision, those too that ask for another one in the middle of a forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from conformance.implementations.dtypes import default_dtype

# The second is that of activations which have parameters.
_ROUNDED = {torch.float32: torch.float64, torch.bfloat16: torch.float64}
_READ_BYTES = (torch.frombuffer, Tensor.view)  # whose dtype says what is there


class _Doubled(TorchFunctionMode):
    """Whatever is asked of torch in float32 or bfloat16 is done in float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is Tensor.float:
            return args[0].double()
        if func in _READ_BYTES:
            return func(*args, **given)
        if torch.dtype in map(type, args):  # which few are; this is asked for every operator
            args = [_doubled(value) for value in args]
        if given:
            given = {name: _doubled(value) for name, value in given.items()}
        return func(*args, **given)


def _doubled(value: Any) -> Any:
    return _ROUNDED.get(value, value) if type(value) is torch.dtype else value


@contextmanager
def in_double() -> Iterator[None]:
    """Inside, models are built and run in float64: norms, softmax and rotary tables are written for float32."""
    with default_dtype(torch.float64), _Doubled():
        yield
