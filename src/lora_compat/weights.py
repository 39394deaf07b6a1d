"""A base weight that knows its LoRA: matmuls that bypass the quant method still get the contribution (WRAP-7)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_compat.delta import LoRADelta
from lora_compat.errors import MatmulBypassedError
from lora_compat.kernels import accumulation_dtype

Function = Callable[..., Any]


def _getters(*names: str) -> set[Function]:
    """What `__torch_function__` is handed when these attributes of a tensor are read."""
    return {getattr(Tensor, name).__get__ for name in names}


_SAME = {
    Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.contiguous, Tensor.clone,
    Tensor.detach, Tensor.type_as, Tensor.cpu, Tensor.cuda, *_getters("data"),
}  # fmt: skip
_TRANSPOSED = {Tensor.t, torch.t, torch.transpose, Tensor.transpose, *_getters("T", "mT")}
_ROWS = {
    Tensor.__getitem__, Tensor.narrow, torch.narrow, Tensor.split, torch.split, Tensor.chunk, torch.chunk,
    Tensor.index_select, torch.index_select,
}  # fmt: skip
_FULL_PRECISION = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}
_READS_NO_VALUES = {
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.storage_offset, Tensor.data_ptr,
    Tensor.element_size, Tensor.is_contiguous, Tensor.untyped_storage, Tensor.__len__, Tensor.__repr__,
    Tensor.is_floating_point, Tensor.__hash__,
    *_getters("shape", "dtype", "device", "layout", "ndim", "is_cuda", "is_meta", "requires_grad", "grad", "grad_fn",
              "is_leaf", "is_sparse", "is_quantized"),
}  # fmt: skip


class LoRAWeight(nn.Parameter):
    """The class that a wrapped layer's ``weight`` takes on; the object and its storage stay the same.

    Casts, copies, transposes and row selections stay tied to the LoRA of the rows they hold, so `linear` and
    `matmul` get the contribution wherever they happen. Any other use of the values while adapters are active is
    refused: right, or loudly refused.
    """

    _lora_kind: type[Tensor] = nn.Parameter
    _lora_delta: LoRADelta
    _lora_rows: Tensor | None
    _lora_transposed: bool
    _lora_quantized: bool

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if func in _READS_NO_VALUES:
                return result
            source = args[0] if args and isinstance(args[0], LoRAWeight) else None
            if source is not None and (func in _SAME or func in _TRANSPOSED or func in _ROWS):
                return _derive(source, func, result, args, kwargs)
            weight = next((a for a in (*args, *kwargs.values()) if isinstance(a, LoRAWeight)), None)
            if weight is None or not weight._lora_delta.active or result is source:
                return result
            return _with_contribution(weight, func, result, args, kwargs)


# Parameter classes that add to `nn.Parameter` only how they are loaded, which a weight that knows its LoRA keeps.
plain_parameters: set[type[nn.Parameter]] = set()


def know_lora(weight: nn.Parameter, delta: LoRADelta) -> bool:
    """Makes ``weight`` a `LoRAWeight` in place, if its class adds nothing to `nn.Parameter` but how it is loaded.

    Returns:
        Whether products with it get the contribution. A quantized weight only refuses to be multiplied with.
    """
    kind = type(weight)
    if kind is not nn.Parameter and not issubclass(kind, tuple(plain_parameters)):
        return False
    quantized = weight.dtype not in _FULL_PRECISION
    _mark(weight, delta, None, False, quantized)
    weight.__class__ = _class_for(kind)
    return not quantized


@cache
def _class_for(kind: type[nn.Parameter]) -> type[LoRAWeight]:
    if kind is nn.Parameter:
        return LoRAWeight
    return type(f"LoRA{kind.__name__}", (LoRAWeight, kind), {"_lora_kind": kind})


def _mark(tensor: Any, delta: LoRADelta, rows: Tensor | None, transposed: bool, quantized: bool) -> None:
    tensor._lora_delta = delta
    tensor._lora_rows = rows
    tensor._lora_transposed = transposed
    tensor._lora_quantized = quantized


def _derive(source: LoRAWeight, func: Function, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Ties a view or copy of ``source`` to the rows of the weight that it holds."""
    delta, rows, transposed = source._lora_delta, source._lora_rows, source._lora_transposed
    if func in _SAME:
        if result is not source and (result.is_floating_point() or source._lora_quantized):
            return _tied(result, source, rows, transposed)
        return result
    if func in _TRANSPOSED:
        return _tied(result, source, rows, not transposed)
    held = torch.arange(source.shape[0], device=source.device) if rows is None else rows
    try:
        selected = held[args[1]] if func is Tensor.__getitem__ else func(held, *args[1:], **kwargs)
    except (IndexError, TypeError, RuntimeError):
        selected = None
    if transposed or selected is None:
        return _refuse_when_used(delta, func, result)
    if isinstance(result, tuple):
        return tuple(_tied(part, source, chosen, False) for part, chosen in zip(result, selected, strict=True))
    if result.dim() != 2:
        return _refuse_when_used(delta, func, result)
    return _tied(result, source, selected, False)


def _tied(result: Tensor, source: LoRAWeight, rows: Tensor | None, transposed: bool) -> Tensor:
    alias = torch.Tensor._make_subclass(LoRAWeight, result)
    _mark(alias, source._lora_delta, rows, transposed, source._lora_quantized)
    return alias


def _refuse_when_used(delta: LoRADelta, func: Function, result: Any) -> Any:
    if delta.active:
        raise MatmulBypassedError(delta.layer, f"{_name(func)} was called on the base weight")
    return result


def _with_contribution(
    weight: LoRAWeight, func: Function, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """``result`` of a product with ``weight``, plus the contribution of the rows that ``weight`` holds."""
    delta = weight._lora_delta
    if func is functional.linear and not weight._lora_transposed:
        x = args[0] if args else kwargs["input"]
        factor = args[1] if len(args) > 1 else kwargs["weight"]
    elif func in _MATMUL and weight._lora_transposed:
        x, factor = args[0], args[1]
    elif _is_einsum(weight, func, args) or _is_addmm(weight, func, args, kwargs):
        x, factor = args[1], args[2]
    else:
        factor = x = None
    if factor is not weight or weight._lora_quantized or not isinstance(x, Tensor):
        raise MatmulBypassedError(delta.layer, f"{_name(func)} was called on the base weight")
    if weight._lora_rows is None:
        return delta.add_to(result, x)
    contribution = delta.of_rows(x, weight._lora_rows)
    adapted = (delta.batch_of(x)[1].token_slots >= 0).view(*x.shape[:-1], 1)
    total = (result.to(accumulation_dtype(result.dtype)) + contribution).to(result.dtype)
    return torch.where(adapted, total, result)


def _is_addmm(weight: LoRAWeight, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether it is ``something + x · weightᵀ``, with no factors."""
    return func in (torch.addmm, Tensor.addmm) and weight._lora_transposed and len(args) >= 3 and not kwargs


def _is_einsum(weight: LoRAWeight, func: Function, args: tuple[Any, ...]) -> bool:
    """Whether it is ``x · weightᵀ``, written like ``...i,oi->...o``, or ``...i,io->...o`` of a transposed weight."""
    if func is not torch.einsum or len(args) != 3:
        return False
    factors, _, result = str(args[0]).replace(" ", "").partition("->")
    x, _, letters = factors.partition(",")
    if len(letters) != 2 or len({*letters}) != 2 or not letters.isalpha():
        return False
    row, column = (letters[1], letters[0]) if weight._lora_transposed else (letters[0], letters[1])
    return x == x[:-1] + column and result == x[:-1] + row and not {*letters} & {*x[:-1]}


def _name(func: Function) -> str:
    return str(getattr(func, "__qualname__", None) or getattr(func, "__name__", repr(func)))
