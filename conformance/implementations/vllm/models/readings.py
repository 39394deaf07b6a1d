"""What the modules of a vLLM model compute, read module by module, with or without LoRA layers around them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import (
    EXPERTS,
    HELD,
    LOGITS,
    OUTPUT,
    ROWS,
    AdaptersView,
    ForwardRaised,
    Parts,
)
from conformance.implementations.vllm.models.aliases import other_names
from conformance.implementations.vllm.models.engine import MAX_TOKENS
from conformance.implementations.vllm.models.mixtures import expert_outputs
from conformance.implementations.vllm.runtime import runtime


class Reader:
    """Knows a model's modules from before any of them was wrapped."""

    def __init__(self, model: Any, config: Any) -> None:
        self._model = model
        self._view, self._adapted = AdaptersView(), False
        self._found: dict[str, tuple[Any, Any]] = {}  # in this reading
        self._hidden_size = config.model_config.get_hidden_size()
        self._dtype = config.model_config.dtype
        self._device = torch.device(runtime().device)
        self.forwards: dict[str, bool] = {}  # whether a module's runs here, found out on the bare model
        self._names = tuple(name for name, _ in model.named_modules())
        self._aliases = other_names(model, _multiplies)
        if hasattr(model, "compute_logits") and not getattr(model, "is_pooling_model", False):
            self._names = (*self._names, LOGITS)
        places = tuple(_towers(model))
        self.towers = tuple(name for name in self._names if f"{name}.".startswith(places))
        self._tower = False  # whether the module that is read is in one

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def read(
        self, view: AdaptersView | None, group: RankGroup, only: Container[str] | None = None
    ) -> dict[str, Parts]:
        """What every module computes, or ``only`` some; with a view, a forward that ran without one has to run."""
        self._view, self._adapted, self._found = view or AdaptersView(), view is not None, {}
        asked = self._names if only is None else [name for name in self._names if name in only]
        return {name: self._everywhere(name, group) for name in asked}

    def _everywhere(self, name: str, group: RankGroup) -> Parts:
        """A module as it is by its first name, and its output for whoever holds it by another one."""
        parts = self._read(name, group)
        held: dict[str, Tensor] = {}
        for alias in self._aliases.get(name, ()):
            self.forwards[alias] = self.forwards.get(name, True)
            passed_over = self._find(alias)[0] is not self._find(name)[0]
            other = self._read(alias, group) if passed_over else parts
            held[HELD + alias] = other.get(OUTPUT, other.get("weight", torch.zeros(())))
        return {**parts, **held}

    def _read(self, name: str, group: RankGroup) -> Parts:
        """The module's output, if it has one here, and its own tensors."""
        self._tower = name in self.towers
        if name == LOGITS:
            return self._output(name, OUTPUT, self._logits) or {}
        module, lora = self._find(name)
        base: Any = self._view.base_of(module) or module
        own = {key: tensor.cpu() for key, tensor in own_tensors(base)}
        if _multiplies(base):
            output = self._output(name, OUTPUT, lambda: self._linear(module, base, group))
            if output is not None:
                return {key: tensor for key, tensor in own.items() if key not in ("weight", "bias")} | output
        elif is_embedding(base):
            output = self._output(name, ROWS, lambda: self._embedding(module, base))
            return own if output is None else output
        elif is_head(base):
            return self._head(own)
        elif EXPERTS[0] in own and self._device.type == "cuda":
            output = self._run(name, lambda: self._experts(name, base, group))
            if output is not None:
                return own | output
        return own | {key: tensor.cpu() for key, tensor in self._view.weights(name, lora, own).items()}

    def _head(self, own: Parts) -> Parts:
        """Its weight is read through the logits, where there are any; a class without may have another use for it."""
        return own if LOGITS not in self._names and _uses_its_head(self._model.__class__) else {}

    def _output(self, name: str, part: str, run: Callable[[], Tensor]) -> dict[str, Tensor] | None:
        return self._run(name, lambda: {part: run()})

    def _run(self, name: str, run: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor] | None:
        if not self.forwards.setdefault(name, True):
            return None
        try:
            output = run()
        except Exception as error:
            if self._adapted:
                raise ForwardRaised(f"{name}: {type(error).__name__}: {error}") from error
            self.forwards[name] = False
            return None
        return output

    def _linear(self, module: Any, base: Any, group: RankGroup) -> Tensor:
        if not isinstance(base, runtime().linear.LinearBase):
            self._serve(base.in_features)
            return _first(module(torch.eye(base.in_features, dtype=base.weight.dtype, device=self._device)))
        output = torch.cat([self._served(module, some) for some in unit_vectors(base, self._dtype).split(MAX_TOKENS)])
        if getattr(base, "reduce_results", True) or base.tp_size == 1:
            return output
        return group.all_reduce(output)  # the model adds the ranks' parts up later, in whatever part of each they are

    def _serve(self, tokens: int) -> None:
        self._view.serve(tokens, tower=self._tower)

    def _served(self, module: Any, given: Tensor) -> Tensor:
        self._serve(len(given))
        return _first(module(given.to(self._device)))

    def _embedding(self, module: Any, base: Any) -> Tensor:
        ids = torch.arange(getattr(base, "org_vocab_size", len(base.weight)), device=self._device)
        return torch.cat([self._looked_up(module, some) for some in ids.split(MAX_TOKENS)])

    def _looked_up(self, module: Any, ids: Tensor) -> Tensor:
        self._serve(len(ids))
        return _first(module(ids))

    def _experts(self, name: str, base: Any, group: RankGroup) -> dict[str, Tensor]:
        with self._view.merged(name):
            return expert_outputs(base, self._serve, group)

    def _logits(self) -> Tensor:
        given = torch.eye(self._hidden_size, dtype=self._dtype, device=self._device)
        self._serve(len(given))
        with _handed_to_head(self._model, given):
            return _first(self._model.compute_logits(given))

    def _find(self, name: str) -> tuple[Any, Any]:
        """The module of that name, LoRA layer or not, and the LoRA layer that it is or is inside of."""
        if name not in self._found:
            self._found[name] = self._looked_for(name)
        return self._found[name]

    def _looked_for(self, name: str) -> tuple[Any, Any]:
        holder, _, part = name.rpartition(".")
        module, lora = (self._model, None) if not name else self._find(holder)
        if name:
            module = getattr(self._view.base_of(module) or module, part)
        return module, lora if self._view.base_of(module) is None else module


def _towers(model: nn.Module) -> Iterator[str]:
    """Where the parts are, each with a point behind, that a class marks as those of images and sounds."""
    for name, module in model.named_modules():
        for part in getattr(module, "_tower_model_names", ()):
            yield f"{name}.{part}." if name else f"{part}."


@cache
def _uses_its_head(cls: type) -> bool:
    """Whether the code of a class takes its LM head anywhere: most that pool are handed one by a base, and do not."""
    own = (base for base in cls.__mro__ if base.__module__.startswith("vllm."))
    trees = (ast.parse(textwrap.dedent(inspect.getsource(base))) for base in own)
    return any(isinstance(node, ast.Attribute) and node.attr == "lm_head" for tree in trees for node in ast.walk(tree))


@contextmanager
def _handed_to_head(model: Any, given: Tensor) -> Iterator[None]:
    """Inside, the head multiplies with ``given`` itself, whatever a model does to its input before."""

    def hand(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0], given, *args[2:]) if len(args) > 1 else args

    processors = [module for module in model.modules() if type(module).__name__.startswith("LogitsProcessor")]
    hooks = [module.register_forward_pre_hook(hand) for module in processors]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def unit_vectors(base: Any, dtype: torch.dtype) -> Tensor:
    """The unit vectors of a layer's input, or the part of them that this rank is handed."""
    size = base.input_size
    whole = torch.eye(size, dtype=dtype)
    if isinstance(base, runtime().linear.RowParallelLinear) and base.input_is_parallel and base.tp_size > 1:
        part = base.input_size_per_partition
        return whole[:, base.tp_rank * part : (base.tp_rank + 1) * part].contiguous()
    return whole


def _first(returned: Any) -> Tensor:
    output = returned[0] if isinstance(returned, tuple) else returned
    return output.detach().cpu().clone()  # type: ignore[no-any-return]


def own_tensors(module: Any) -> list[tuple[str, Tensor]]:
    """Parameters, buffers and tensors in plain attributes: a copy made of a weight while loading is one.

    Each as a plain `Tensor` on the same memory. Not what has no numbers, as the head of a model that is served
    without one.
    """
    held = (*module._parameters.items(), *module._buffers.items(), *vars(module).items())
    with torch._C.DisableTorchFunctionSubclass():  # vLLM's parameters take each question through Python
        return [
            (name, tensor.detach())
            for name, tensor in held
            if _is_tensor(tensor.__class__) and tensor.is_floating_point() and tensor.numel() and not tensor.is_meta
        ]


@cache
def _is_tensor(kind: type) -> bool:
    return issubclass(kind, Tensor)


def _multiplies(module: Any) -> bool:
    return isinstance(module, runtime().linear.LinearBase) or type(module).forward is nn.Linear.forward


def is_embedding(module: Any) -> bool:
    """Whether a module is vLLM's embedding, or torch's by its forward."""
    if type(module).forward is nn.Embedding.forward:
        return True
    return all(hasattr(module, name) for name in ("org_vocab_size", "shard_indices")) and not is_head(module)


def is_head(module: Any) -> bool:
    """Whether a module is vLLM's LM head."""
    return type(module).__name__ == "ParallelLMHead"
