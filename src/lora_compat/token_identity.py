"""Which token each row of a product's input is: identity that travels with the input through a class's own forward.

A forward may permute its tokens before the product and put them back after, take them in chunks, or drop some. Where
a class has a forward of its own, its input therefore carries a shadow that holds, for each element, the number of its
token. Functions that move elements move the shadow alike; those that keep every element in its place keep it; after
any other nobody knows, and a batch in which that matters is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

Function = Callable[..., Any]

_KEEPS: Final = frozenset({
    "abs", "add", "addcdiv", "addcmul", "bfloat16", "ceil", "clamp", "clone", "contiguous", "cpu", "cuda",
    "detach", "div", "double", "dropout", "elu", "exp", "exp2", "float", "floor", "fmod", "gelu", "group_norm",
    "half", "layer_norm", "leaky_relu", "log", "log1p", "log2", "log_softmax", "lerp", "maximum", "minimum",
    "mish", "mul", "neg", "nan_to_num", "normalize", "pow", "relu", "relu6", "remainder", "requires_grad",
    "rms_norm", "round", "rsqrt", "rsub", "sigmoid", "silu", "softmax", "softplus", "sqrt", "square", "sub",
    "tanh", "to", "true_divide", "truediv", "trunc", "type", "type_as", "where",
})  # fmt: skip
_MOVES: Final = frozenset({
    "cat", "chunk", "concat", "expand", "expand_as", "flatten", "flip", "fliplr", "flipud", "gather", "getitem",
    "hsplit", "index_select", "masked_select", "movedim", "narrow", "permute", "ravel", "repeat",
    "repeat_interleave", "reshape", "reshape_as", "roll", "select", "split", "squeeze", "stack", "swapaxes", "t",
    "take_along_dim", "tensor_split", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as",
    "vsplit",
})  # fmt: skip
_TRANSPOSING: Final = {getattr(Tensor, name).__get__ for name in ("T", "mT")}
_DATA: Final = Tensor.data.__get__  # type: ignore[attr-defined]


class TokenInput(Tensor):
    """A forward's input, and in ``shadow``, of its shape, the number of each element's token; None once it is lost."""

    shadow: Tensor | None
    moved: bool

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(other, Tensor) and hasattr(other, "_lora_kind") for other in types):
            return NotImplemented  # a weight that knows its LoRA: it asks for the tokens itself
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            name = str(getattr(func, "__name__", "")).strip("_")
            if name == "setitem" or isinstance(result, TokenInput):
                return _written(result, name, args)
            if not isinstance(result, (Tensor, tuple, list)):
                return result
            if func in _TRANSPOSING or name in _MOVES:
                return _following(func, result, args, kwargs)
            if name in _KEEPS or (name[:1] in ("r", "i") and name[1:] in _KEEPS):
                return _kept(result, args)
            return result


def identified(x: Tensor, tokens: int) -> Tensor:
    """``x [..., width]`` of so many tokens with their identity; another tensor as it is."""
    if type(x) is not Tensor or not x.dim() or x.shape[:-1].numel() != tokens:
        return x
    numbers = torch.arange(tokens, device=x.device).view(*x.shape[:-1], 1)
    return _tagged(x, numbers.expand(x.shape), False)


def anonymous(value: Any) -> Any:
    """A forward's result without the identity that its tensors may have taken on."""
    if isinstance(value, TokenInput):
        return value.as_subclass(Tensor)
    if type(value) in (tuple, list):
        return type(value)(map(anonymous, value))
    return value


def tokens_of(x: TokenInput) -> list[int] | None:
    """The token of each row of ``x``; None where that is lost, or a row is of several."""
    with torch._C.DisableTorchFunctionSubclass():
        if x.shadow is None:
            return None
        rows = x.shadow.reshape(-1, x.shape[-1])
        if rows.shape[1] == 0 or not bool((rows == rows[:, :1]).all()):
            return None
        return [int(token) for token in rows[:, 0].tolist()]


def _tagged(x: Tensor, shadow: Tensor | None, moved: bool) -> TokenInput:
    tagged = x.as_subclass(TokenInput)
    tagged.shadow, tagged.moved = shadow, moved
    return tagged


def _kept(result: Any, args: tuple[Any, ...]) -> Any:
    """``result`` with the identity of what it was computed of, element by element, where that is one identity."""
    sources = [one for one in args if isinstance(one, TokenInput)]
    first = sources[0] if sources else None
    if first is None or first.shadow is None or not isinstance(result, Tensor) or result.shape != first.shadow.shape:
        return result
    alike = all(one.shadow is first.shadow or not (one.moved or first.moved or one.shadow is None) for one in sources)
    return _tagged(result, first.shadow, first.moved) if alike else result


def _written(result: Any, name: str, args: tuple[Any, ...]) -> Any:
    """What was written in place keeps its identity where no element may have come from elsewhere."""
    target = args[0] if args else None
    if not isinstance(target, TokenInput):
        return result
    others = [one for one in args[1:] if isinstance(one, Tensor) and one.is_floating_point()]
    strangers = [one for one in others if isinstance(one, TokenInput) and one.shadow is not target.shadow]
    if strangers or (others if name == "setitem" else name not in _KEEPS):
        target.shadow, target.moved = None, True
    return result


def _following(func: Function, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``result``, its shadows moved as its elements were; without, where something else was put between them."""
    try:
        shadows = func(*map(_shadow_of, args), **{name: _shadow_of(one) for name, one in kwargs.items()})
    except (TypeError, RuntimeError, _Stranger):
        return result
    if isinstance(result, Tensor):
        return _tagged(result, shadows, True) if result.shape == shadows.shape else result
    return type(result)(_tagged(one, shadow, True) for one, shadow in zip(result, shadows, strict=True))


class _Stranger(Exception):
    """A tensor without identity where all need one."""


def _shadow_of(argument: Any) -> Any:
    if isinstance(argument, TokenInput):
        if argument.shadow is None:
            raise _Stranger
        return argument.shadow
    if isinstance(argument, (tuple, list)) and any(isinstance(one, TokenInput) for one in argument):
        if not all(isinstance(one, TokenInput) for one in argument):
            raise _Stranger
        return type(argument)(map(_shadow_of, argument))
    return argument
