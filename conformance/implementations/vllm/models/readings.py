"""What the modules of a vLLM model compute, read module by module, with or without LoRA layers around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import LOGITS, OUTPUT, ROWS, ForwardRaised, Parts
from conformance.implementations.vllm.models.engine import device
from conformance.implementations.vllm.models.slots import expert_weights, linear_weight
from conformance.implementations.vllm.runtime import runtime

Tokens = Callable[[int], None]


class Reader:
    """Knows a model's modules from before any of them was wrapped."""

    def __init__(self, model: Any, config: Any) -> None:
        self._model = model
        self._adapted = False
        self._hidden_size = config.model_config.get_hidden_size()
        self._dtype = config.model_config.dtype
        self._readable: dict[str, bool] = {}  # whether a module's forward runs here, found out on the bare model
        self._names = tuple(name for name, module in model.named_modules() if _own_tensors(module))
        if hasattr(model, "compute_logits"):
            self._names = (*self._names, LOGITS)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def adapted(self) -> None:
        """From now on a forward that ran before has to run."""
        self._adapted = True

    def read(self, name: str, tokens: Tokens, group: RankGroup) -> Parts:
        """The module's output, if it has one here, and its own tensors."""
        if name == LOGITS:
            return self._output(name, OUTPUT, lambda: self._logits(tokens)) or {}
        module, holder = self._find(name)
        base = getattr(module, "base_layer", module) if _is_lora(module) else module
        own = dict(_own_tensors(base))
        if isinstance(base, runtime().linear.LinearBase):
            output = self._output(name, OUTPUT, lambda: self._linear(module, base, tokens, group))
            if output is None:
                return own | ({"weight": linear_weight(module, group)} if _is_lora(module) else {})
            return {key: tensor for key, tensor in own.items() if key not in ("weight", "bias")} | output
        if _is_embedding(base):
            output = self._output(name, ROWS, lambda: self._embedding(module, base, tokens))
            return own if output is None else output
        if _is_head(base):
            return {}  # its weight is read through the logits
        if holder is not None and "w13_weight" in own:
            return own | expert_weights(holder, own, group)
        return own

    def _output(self, name: str, part: str, run: Callable[[], Tensor]) -> dict[str, Tensor] | None:
        if not self._readable.setdefault(name, True):
            return None
        try:
            output = run()
        except Exception as error:
            if self._adapted:
                raise ForwardRaised(f"{name}: {type(error).__name__}: {error}") from error
            self._readable[name] = False
            return None
        return {part: output}

    def _linear(self, module: Any, base: Any, tokens: Tokens, group: RankGroup) -> Tensor:
        given = unit_vectors(base, self._dtype)
        tokens(len(given))
        output = _first(module(given.to(device())))
        if getattr(base, "reduce_results", True) or base.tp_size == 1:
            return output
        return group.all_reduce(output)  # the model adds the ranks' parts up later, in whatever part of each they are

    def _embedding(self, module: Any, base: Any, tokens: Tokens) -> Tensor:
        ids = torch.arange(base.org_vocab_size, device=device())
        tokens(len(ids))
        return _first(module(ids))

    def _logits(self, tokens: Tokens) -> Tensor:
        given = torch.eye(self._hidden_size, dtype=self._dtype, device=device())
        tokens(len(given))
        return _first(self._model.compute_logits(given))

    def _find(self, name: str) -> tuple[nn.Module, nn.Module | None]:
        """The module of that name, LoRA layer or not, and the LoRA layer that it is inside of."""
        module, holder = self._model, None
        for part in name.split(".") if name else ():
            if _is_lora(module):
                module, holder = module.base_layer, module
            module = getattr(module, part)
        return module, holder


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


def _own_tensors(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and tensors in plain attributes: a copy made of a weight while loading is one."""
    for held in (module._parameters, module._buffers, vars(module)):
        for name, tensor in held.items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                yield name, tensor.cpu()


def _is_lora(module: Any) -> bool:
    return isinstance(module, runtime().lora_layers.BaseLayerWithLoRA)


def _is_embedding(module: Any) -> bool:
    return all(hasattr(module, name) for name in ("org_vocab_size", "shard_indices")) and not _is_head(module)


def _is_head(module: Any) -> bool:
    return type(module).__name__ == "ParallelLMHead"
