"""From a case to a built layer: the rendered class executed, constructed, and loaded through its own loader."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from functools import lru_cache
from types import CodeType
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from conformance.implementations.dtypes import default_dtype
from conformance.implementations.protocol import LayerLibrary
from conformance.subjects.constructors import recipe_of
from conformance.subjects.recipes import Geometry
from lora_compat.sharding import shard_id
from strategies.cases import Case, LayerSpec, Quantization, WrapperKind
from strategies.constructors import constructor_arguments
from strategies.libraries import Library
from strategies.source import CLASS_NAME, render
from strategies.subclasses import SubclassSpec


@lru_cache(maxsize=512)
def class_of(layer: LayerSpec, subclass: SubclassSpec, library: Library) -> type[nn.Module]:
    """The rendered class, executed; its source shows in tracebacks."""
    return _executed(render(layer, subclass, library))


@lru_cache(maxsize=512)
def _executed(source: str) -> type[nn.Module]:
    namespace: dict[str, object] = {"__name__": "drawn"}
    for block in source.split("\n\n\n"):
        exec(_compiled(block), namespace)
    found = namespace[CLASS_NAME]
    assert isinstance(found, type)
    return found


@lru_cache(maxsize=4096)
def _compiled(block: str) -> CodeType:
    """A class or function of a rendered source: other sources have it too, and compiling is most of making a class."""
    file = f"<drawn {crc32(block.encode()):x}>"
    linecache.cache[file] = (len(block), None, block.splitlines(True), file)
    return compile(block, file, "exec")


def build_layer(
    case: Case, library: LayerLibrary, dtype: torch.dtype, quantization: Quantization = Quantization.NONE
) -> nn.Module:
    """This rank's layer of ``case``, with weights not loaded yet; call inside ``library.ranked(group)``."""
    if case.subclass.target is not None:
        return _build_target(case, library, dtype, quantization)
    cls = class_of(case.layer, case.subclass, library.library)
    arguments = constructor_arguments(case.layer, case.subclass, library.library)
    with default_dtype(dtype):
        return library.build(cls, arguments, quantization)


def _build_target(case: Case, library: LayerLibrary, dtype: torch.dtype, quantization: Quantization) -> nn.Module:
    """The existing class that the case names, built by its recipe."""
    recipe = recipe_of(case.subclass)

    def construct(quant_config: object = None) -> nn.Module:
        return recipe.build(Geometry.of(case.layer, case.tp_size, dtype, quant_config))

    with default_dtype(dtype):
        return library.build(construct, {}, quantization)  # type: ignore[arg-type]


def shard_id_of(case: Case, index: int) -> tuple[int | str, ...]:
    """The weight loader's extra argument for output ``index``, if any."""
    if case.subclass.target is not None:
        return recipe_of(case.subclass).shard_id(case.layer.family, index)
    return shard_id(case.layer.family, index)


def load_weights(
    case: Case, library: LayerLibrary, layer: nn.Module, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> None:
    """Loads the checkpoint weights, one output at a time."""
    for name, tensors in (("weight", weights), ("bias", biases)):
        for index, tensor in enumerate(tensors):
            library.load(layer, name, tensor, *shard_id_of(case, index))


def call(case: Case, layer: nn.Module, x: Tensor, gate: Tensor) -> object:
    """One forward, with the extra argument where the class takes one."""
    if case.subclass.depth and case.subclass.forward.value == "extra_argument":
        return layer(x, gate.view(*x.shape[:-1], 1))
    return layer(x)


def flatten(result: object) -> list[Tensor]:
    """The tensors of a result, depth first, on the CPU; None is left out."""
    if isinstance(result, Tensor):
        return [result.cpu()]
    if isinstance(result, (tuple, list)):
        return [tensor for item in result for tensor in flatten(item)]
    return []


class BareWrapper(torch.nn.Module):
    """Holds a layer and says nothing of quant methods."""

    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer


class NoneWrapper(BareWrapper):
    """Has a quant method that is None."""

    quant_method = None

    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__(base_layer)
        self.quant_method = None


class ForwardingWrapper(BareWrapper):
    """Hands unknown attributes on to what it wraps."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


# A test file has them as they stand here.
WRAPPERS: dict[WrapperKind, type[BareWrapper]] = {
    WrapperKind.BARE: BareWrapper,
    WrapperKind.NONE: NoneWrapper,
    WrapperKind.FORWARDING: ForwardingWrapper,
}


def nest(module: nn.Module, nesting: Sequence[WrapperKind]) -> nn.Module:
    """``module`` inside the wrappers, outermost first."""
    for kind in reversed(nesting):
        module = WRAPPERS[kind](module)
    return module
