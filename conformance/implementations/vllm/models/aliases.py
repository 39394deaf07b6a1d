"""Layers that a model holds more than once: who is handed one, and calls it, has to call the LoRA layer around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn


def other_names(model: nn.Module, read: Callable[[Any], bool]) -> Mapping[str, Sequence[str]]:
    """The further names of each module that is ``read``, by its first one.

    Modules hold others as submodules, or in a plain object of vLLM's, such as the implementation of an attention.
    """
    first = {id(module): name for name, module in model.named_modules()}
    others = defaultdict(list)
    for holder_name, holder in model.named_modules():
        for inner, module in (*holder._modules.items(), *_in_objects(holder)):
            name = f"{holder_name}.{inner}" if holder_name else inner
            if module is not None and read(module) and first.get(id(module), name) != name:
                others[first[id(module)]].append(name)
    return others


def _in_objects(holder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, held in vars(holder).items():
        if _is_object(held.__class__):
            yield from ((f"{name}.{inner}", one) for inner, one in vars(held).items() if isinstance(one, nn.Module))


@cache
def _is_object(kind: type) -> bool:
    """Whether a class is one of vLLM's, and no module, whose objects hold others."""
    return kind.__module__.startswith("vllm.") and not issubclass(kind, nn.Module) and kind.__dictoffset__ != 0
