"""A GPU in CPU memory, which finds tensors on the wrong device without a GPU: `-p tests.devices.emulated_gpu`.

A storage is marked as lying on the GPU. An operator that meets tensors of both kinds raises as on a real machine,
what it makes lies where its arguments lie, and ``Tensor.device`` says so. Numbers are the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_CROSSES = {_ATEN.copy_.default, _ATEN._to_copy.default}
_TAKES_CPU_INDICES = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default}
_TAKES_CPU_SCALARS = {_ATEN.fill_.Tensor, _ATEN.fill.Tensor, *_TAKES_CPU_INDICES}
_GPU, _CPU = torch.device("cuda:0"), torch.device("cpu")
_factory, _convert, _numpy = torch.tensor, Tensor.to, Tensor.numpy


class Gpu:
    """What there is one of."""

    lost = False


def on_gpu(tensor: Tensor) -> bool:
    """Whether its storage is marked."""
    return getattr(tensor.untyped_storage(), "on_gpu", False)


def lose() -> None:
    """What an illegal access does: every later call that needs the GPU fails."""
    Gpu.lost = True


def _require_gpu(*_: object) -> None:
    if Gpu.lost:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


class EmulatedGpu(TorchDispatchMode):
    """Places results, and refuses to mix."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled; to leave it out, torch's compiler would be imported, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = list(_tensors([args, list(kwargs.values())]))
        self._require_one_device(func, args, given)
        if kwargs.get("device") is not None:
            placed = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = _CPU
        else:
            placed = any(map(on_gpu, given[:1] if func in _CROSSES | _TAKES_CPU_INDICES else given))
        if placed:
            _require_gpu()
        result = func(*args, **kwargs)
        for tensor in _tensors([result]) if placed else ():
            tensor.untyped_storage().on_gpu = True
        return result

    @staticmethod
    def _require_one_device(func: Any, args: Any, given: list[Tensor]) -> None:
        if func in _CROSSES:
            return
        if func in _TAKES_CPU_INDICES:  # the tensor, and the values that are put in
            given = [args[0], *args[2:3]]
        scalars = torch.Tag.pointwise in func.tags or func in _TAKES_CPU_SCALARS
        meeting = [tensor for tensor in given if tensor.dim() or not scalars]
        if len(set(map(on_gpu, meeting))) > 1:
            found = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in meeting)
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {found}")


def _make(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    made = _factory(data, **options)
    return made if device is None else made.to(device)


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Any:
    if has_torch_function_unary(self):
        return handle_torch_function(_to, (self,), self, *args, **kwargs)
    copy = kwargs.pop("copy", False)
    kwargs.pop("non_blocking", None)
    given = [*args, *kwargs.values()]
    if given and isinstance(given[0], Tensor):
        given = [given[0].device, given[0].dtype]
    dtype = next((one for one in given if isinstance(one, torch.dtype)), self.dtype)
    device = next((torch.device(one) for one in given if isinstance(one, (str, torch.device))), self.device)
    if device.type == self.device.type and not copy:
        return _convert(self, dtype)
    moved = _convert(self, dtype, copy=True)
    moved.untyped_storage().on_gpu = device.type == "cuda"
    return moved


def _cpu(self: Tensor, *_: Any) -> Any:
    return handle_torch_function(_cpu, (self,), self) if has_torch_function_unary(self) else _to(self, "cpu")


def _cuda(self: Tensor, *_: Any) -> Any:
    return handle_torch_function(_cuda, (self,), self) if has_torch_function_unary(self) else _to(self, "cuda")


def _to_numpy(self: Tensor, **options: Any) -> Any:
    if on_gpu(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")
    return _numpy(self, **options)


def install() -> None:
    """Makes torch see one GPU, in this thread and in those of the threads engine; Triton is left out."""
    from conformance.engines import threads

    class Worker(threads._Worker):
        def run(self) -> None:
            with EmulatedGpu():
                super().run()

    threads._Worker = Worker  # type: ignore[misc]
    import lora_compat.kernels.dispatch as dispatch

    dispatch._has_triton = lambda: False  # type: ignore[assignment]
    EmulatedGpu().__enter__()


def _patch_torch() -> None:
    torch._C._ensureCUDADeviceGuardSet()
    torch.tensor = _make  # type: ignore[assignment]
    Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.numpy = _to, _cpu, _cuda, _to_numpy  # type: ignore[assignment]
    Tensor.device = property(lambda self: _GPU if on_gpu(self) else _CPU)  # type: ignore[assignment]
    Tensor.is_cuda, Tensor.is_cpu = property(on_gpu), property(lambda self: not on_gpu(self))  # type: ignore[assignment]
    cuda: Any = torch.cuda
    cuda.is_available = cuda.is_initialized = lambda: True
    cuda.device_count, cuda.get_device_capability = lambda: 1, lambda *_: (9, 0)
    cuda.synchronize, cuda.device, cuda._lazy_init = _require_gpu, nullcontext, lambda: None


_patch_torch()  # before lora_compat looks up what a tensor can do
install()
