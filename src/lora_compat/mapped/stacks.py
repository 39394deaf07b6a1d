"""`StackedWeights`: adapters of stacked experts, whatever kernel multiplies with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lora_compat.adapters import LoRAConfig
from lora_compat.checkpoint_map import Factor, Indices, added
from lora_compat.delta import NO_TOKENS
from lora_compat.errors import MatmulBypassedError, SlotError, TokenCountError
from lora_compat.kernels import TokenBatch

# By attribute of the module.
StackAdapter = Mapping[str, tuple[Factor, ...]]
_NOTHING: StackAdapter = {}


class StackedWeights:
    """Some stacked parameters of one module, which runs once for each adapter of a batch with the weights merged.

    That asks nothing of the module but that it treats each token alike, so kernels, activations and quantities of
    experts are its own business. Between two forwards the weights are the base's, bit for bit.
    """

    rank_shards = 1

    def __init__(
        self, module: nn.Module, attributes: Sequence[str], methods: Sequence[str], config: LoRAConfig, *, name: str
    ) -> None:
        """``methods`` of the module are those that are handed tokens."""
        self.module, self.attributes, self.name = module, tuple(attributes), name
        self.max_loras, self.max_rank = config.max_loras, config.max_lora_rank
        self.batch = NO_TOKENS
        self._slots = [_NOTHING] * config.max_loras
        for method in methods:
            setattr(module, method, TokenWise(self, getattr(module, method)))

    @property
    def lora_device(self) -> torch.device:
        """Where the weights are."""
        return self._parameter(self.attributes[0]).device

    def check(self, adapter: StackAdapter) -> None:
        """Adapters come in the parameters' own shapes."""

    def set_lora(self, slot: int, adapter: StackAdapter) -> None:
        """Puts ``adapter`` into ``slot``.

        Raises:
            SlotError: there is no such slot.
        """
        self._require(slot)
        self._slots[slot] = adapter

    def reset_lora(self, slot: int) -> None:
        """Empties ``slot``."""
        self.set_lora(slot, _NOTHING)

    def saved(self, slot: int) -> Any:
        """What ``slot`` holds, for `restore`."""
        self._require(slot)
        return self._slots[slot]

    def restore(self, slot: int, saved: Any) -> None:
        """Puts back what `saved` gave."""
        self._slots[slot] = saved

    def set_batch(self, batch: TokenBatch | None) -> None:
        """Selects which slot serves each token of the next forwards; None: no adapters."""
        self.batch = NO_TOKENS if batch is None else batch

    def dummy(self, rank: int) -> StackAdapter:
        """An adapter of ``rank`` of every expert's matrices that adds nothing."""
        return {name: tuple(self._zeros(self._parameter(name), rank)) for name in self.attributes}

    def _zeros(self, parameter: Tensor, rank: int) -> Iterator[Factor]:
        rows, columns = parameter.shape[-2:]
        a, b = torch.zeros(rank, columns), torch.zeros(rows, rank)
        for at in range(parameter.numel() // (rows * columns)):
            yield Factor(at, Indices(0, rows), Indices(0, columns), a, b, 1.0, self.name)

    def weight(self, attribute: str, slot: int) -> Tensor:
        """The parameter with the adapter in ``slot`` merged, rounded once."""
        base = self._parameter(attribute)
        factors = self._slots[slot].get(attribute, ())
        if not factors:
            return base.data.clone()
        return (base.double() + added(tuple(base.shape), factors).to(base.device)).to(base.dtype)

    @contextmanager
    def merged(self, slot: int) -> Iterator[None]:
        """Inside, the module's weights are those of `weight`."""
        kept = {name: self._parameter(name).data.clone() for name in self._slots[slot]}
        try:
            for name in kept:
                self._parameter(name).data.copy_(self.weight(name, slot))
            yield
        finally:
            for name, content in kept.items():
                self._parameter(name).data.copy_(content)

    def _parameter(self, attribute: str) -> nn.Parameter:
        return self.module._parameters[attribute]  # type: ignore[return-value]

    def _require(self, slot: int) -> None:
        if slot not in range(self.max_loras):
            raise SlotError(slot, self.max_loras)


class TokenWise:
    """Stands in for a method that is handed tokens, and calls it for each adapter's tokens with its weights."""

    def __init__(self, weights: StackedWeights, method: Callable[..., Any]) -> None:
        self.weights, self.method = weights, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.weights.batch
        if not batch.active:
            return self.method(*args, **kwargs)
        if batch.group_sizes == (len(batch),):
            with self.weights.merged(batch.groups[0][0]):
                return self.method(*args, **kwargs)
        rest = (batch.token_slots < 0).nonzero().flatten()
        parts = [self._part(slot, tokens, args, kwargs) for slot, tokens in batch.groups]
        parts += [self._part(None, rest, args, kwargs)] if len(rest) else []
        tokens = torch.cat([*(tokens for _, tokens in batch.groups), rest])
        return torch.cat(parts)[tokens.argsort()]

    def _part(self, slot: int | None, tokens: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        given = [self._of(one, tokens) for one in args]
        named = {key: self._of(one, tokens) for key, one in kwargs.items()}
        with nullcontext() if slot is None else self.weights.merged(slot):
            part = self.method(*given, **named)
        if not isinstance(part, Tensor) or part.shape[:1] != (len(tokens),):
            raise MatmulBypassedError(self.weights.name, "its output is not one row for each token")
        return part

    def _of(self, argument: Any, tokens: Tensor) -> Any:
        """The tokens' part of an argument.

        Raises:
            TokenCountError: it has not one row for each token of the batch.
            MatmulBypassedError: it is a module, which would be called once for each adapter, or holds several things.
        """
        if isinstance(argument, (nn.Module, list, tuple, dict)):
            how = f"it is handed a {type(argument).__qualname__}, which cannot be taken apart by token"
            raise MatmulBypassedError(self.weights.name, how)
        if not isinstance(argument, Tensor):
            return argument
        if argument.dim() == 0 or argument.shape[0] != len(self.weights.batch):
            raise TokenCountError(
                self.weights.name, argument.shape[0] if argument.dim() else 1, len(self.weights.batch)
            )
        return argument[tokens]
