"""Which token each row of a product's input is: identity that travels with the input through a class's own forward.

A forward may permute its tokens before the product and put them back after, take them in chunks, or drop some. Where
a class has a forward of its own, its input therefore carries a shadow that holds, for each element, the number of its
token. Functions that move elements move the shadow alike; those that keep every element, or every row, in its place
keep it; after any other nobody knows, and a batch in which that matters is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
_BY_ROW: Final = frozenset({
    "amax", "amin", "linear", "matmul", "max", "mean", "min", "mm", "norm", "std", "sum", "var",
})  # fmt: skip
_TRANSPOSING: Final = {getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH")}
_DATA: Final = {getattr(Tensor, name).__get__ for name in ("data",)}


@dataclass(slots=True)
class Trail:
    """What all that is computed of one forward's input shares: whether its identities can still be believed."""

    lost: bool = False


class TokenInput(Tensor):
    """A forward's input or what became of it, and in ``shadow`` the number of each element's token, where it is known.

    ``moved`` says whether any element may have left its place.
    """

    shadow: Tensor | None
    moved: bool
    trail: Trail

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
            sources = _sources(args, kwargs)
            if isinstance(result, TokenInput) or name in ("setitem", "set") or "out" in kwargs:
                _write(name, args, kwargs)
            elif func in _TRANSPOSING or name in _MOVES:
                return _following(func, result, args, kwargs, sources[0].trail)
            elif func in _DATA or name in _KEEPS or (name[:1] == "r" and name[1:] in _KEEPS):
                return _kept(result, sources)
            elif name in _BY_ROW and len(sources) == 1 and args and args[0] is sources[0]:
                return _of_rows(result, sources[0])
            elif name not in ("get", "as_subclass") and not name.startswith("new_") and not name.endswith("_like"):
                return _unknown(result, sources[0].trail)
            return result


def identified(x: Any, tokens: int, trail: Trail) -> Any:
    """``x [..., width]`` of so many tokens with their identity; anything else as it is."""
    if type(x) is not Tensor or not x.dim() or x.shape[:-1].numel() != tokens:
        return x
    numbers = torch.arange(tokens, device=x.device).view(*x.shape[:-1], 1)
    return _tagged(x, numbers.expand(x.shape), False, trail)


def anonymous(value: Any) -> Any:
    """A forward's result without the identity that its tensors may have taken on."""
    if isinstance(value, TokenInput):
        return value.as_subclass(Tensor)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(anonymous, value))
    if type(value) in (tuple, list):
        return type(value)(map(anonymous, value))
    if type(value) is dict:
        return {name: anonymous(one) for name, one in value.items()}
    return value


def tokens_of(x: TokenInput) -> list[int] | None:
    """The token of each row of ``x``; None where that is lost, or a row is of several."""
    with torch._C.DisableTorchFunctionSubclass():
        numbers = None if x.trail.lost else _by_row(x)
        return None if numbers is None else [int(token) for token in numbers.flatten().tolist()]


def _by_row(x: TokenInput) -> Tensor | None:
    """The token of each row, ``[..., 1]``."""
    if x.shadow is None or not x.dim() or not x.shape[-1]:
        return None
    first = x.shadow[..., :1]
    return first if not x.moved or bool((x.shadow == first).all()) else None


def _sources(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[TokenInput]:
    """The tensors with identity among arguments, and in lists of arguments."""
    given = [*args, *kwargs.values()]
    listed = [part for one in given if type(one) in (tuple, list) for part in one]
    return [one for one in (*given, *listed) if isinstance(one, TokenInput)]


def _tagged(x: Tensor, shadow: Tensor | None, moved: bool, trail: Trail) -> TokenInput:
    tagged = x.as_subclass(TokenInput)
    tagged.shadow, tagged.moved, tagged.trail = shadow, moved, trail
    return tagged


def _unknown(result: Any, trail: Trail) -> Any:
    """``result``, whose numbers are of nobody knows which tokens."""
    if isinstance(result, Tensor):
        return _tagged(result, None, True, trail) if result.is_floating_point() else result
    if type(result) in (tuple, list) or type(result).__module__ == "torch.return_types":
        return type(result)([_unknown(one, trail) for one in result])
    return result


def _kept(result: Any, sources: list[TokenInput]) -> Any:
    """``result`` with the identity of what it was computed of, element by element, where that is one identity."""
    if not isinstance(result, Tensor):
        return result
    whole = [one for one in sources if one.shape == result.shape]  # others are factors of rows, or of columns
    if not whole or any(_strangers(whole[0], one) for one in whole):
        return _unknown(result, sources[0].trail)
    return _tagged(result, whole[0].shadow, whole[0].moved, whole[0].trail)


def _strangers(one: TokenInput, other: TokenInput) -> bool:
    """Whether their elements may be of different tokens."""
    return one.shadow is not other.shadow and (one.moved or other.moved)


def _of_rows(result: Any, source: TokenInput) -> Any:
    """``result``, of which each row was computed of the row of ``source`` in the same place."""
    numbers = _by_row(source)
    if numbers is None or not isinstance(result, Tensor) or result.shape[:-1] != source.shape[:-1] or not result.dim():
        return _unknown(result, source.trail)
    return _tagged(result, numbers.expand(result.shape), source.moved, source.trail)


def _write(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What was written in place may have views: nothing is believed where an element may have come from elsewhere."""
    target = kwargs.get("out", args[0] if args else None)
    if not isinstance(target, TokenInput):
        return
    others = [one for one in args[1:] if isinstance(one, Tensor) and one.is_floating_point()]
    sources = [one for one in others if isinstance(one, TokenInput) and one.shape == target.shape]
    strange = any(_strangers(target, one) for one in sources)
    keeps = name in _KEEPS or (name[:1] == "i" and name[1:] in _KEEPS)
    if strange or "out" in kwargs or (others if name == "setitem" else not keeps):
        target.trail.lost = True


def _following(func: Function, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], trail: Trail) -> Any:
    """``result``, its shadows moved as its elements were; unknown where something else was put between them."""
    try:
        shadows = func(*map(_shadow_of, args), **{name: _shadow_of(one) for name, one in kwargs.items()})
    except (TypeError, RuntimeError, _Stranger):
        return _unknown(result, trail)
    if isinstance(result, Tensor):
        return _tagged(result, shadows, True, trail) if result.shape == shadows.shape else _unknown(result, trail)
    return type(result)(_tagged(one, shadow, True, trail) for one, shadow in zip(result, shadows, strict=True))


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
