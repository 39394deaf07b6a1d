"""What experts compute on CUDA, through vLLM's fused kernels, read by unit vectors as all layers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import EXPERTS


class _Between:
    """In the place of the activation: notes what the first product gave, and hands chosen rows to the second.

    An activation would round, and what adapters add to one product could not be told from what they add to the other.
    """

    def __init__(self, handed: Tensor | None = None) -> None:
        self._handed = handed
        self.noted = torch.empty(0)

    def __call__(self, activation: object, output: Tensor, input: Tensor) -> None:
        self.noted = input.clone()
        output.zero_() if self._handed is None else output.copy_(self._handed)


def expert_outputs(layer: Any, serve: Callable[[int], None], group: RankGroup) -> dict[str, Tensor]:
    """The weights of both products as their outputs show them, adapters included: `EXPERTS`, on the CPU.

    ``w13_weight`` is experts × own outputs × inputs, ``w2_weight`` experts × outputs × inputs of all ranks, as ranks
    add up what each makes of its own. ``layer`` is vLLM's `RoutedExperts`; ``serve`` is told of the tokens to come.

    Raises whatever vLLM does where its fused kernels do not run.
    """
    run = _Run(layer, serve, group)
    count = layer.w13_weight.shape[0]
    parts = ([run.first(expert) for expert in range(count)], [run.second(expert) for expert in range(count)])
    return {name: torch.stack(part).mT.contiguous().cpu() for name, part in zip(EXPERTS, parts, strict=True)}


class _Run:
    """The kernels of one layer, with routing of our own."""

    def __init__(self, layer: Any, serve: Callable[[int], None], group: RankGroup) -> None:
        self._layer, self._serve, self._group = layer, serve, group
        self._places: int = layer.moe_config.experts_per_token
        self._weight = 1.0 if layer.apply_router_weight_on_input else 0.5  # of a power of two, so that nothing is lost

    def first(self, expert: int) -> Tensor:
        """Inputs × own outputs of gate and up."""
        noted = _Between()
        units = self._units(self._layer.w13_weight.shape[2])
        self._apply(units, expert, noted)
        return noted.noted.view(len(units), self._places, -1)[torch.arange(len(units)), self._place(len(units))]

    def second(self, expert: int) -> Tensor:
        """Inputs of all ranks × outputs of down."""
        own, size, rank = self._layer.w2_weight.shape[2], self._group.size, self._group.rank
        units = self._units(own * size)[:, rank * own : (rank + 1) * own]
        nothing = torch.zeros(len(units), self._layer.w13_weight.shape[2], dtype=units.dtype, device=units.device)
        output = self._apply(nothing, expert, _Between(units.repeat_interleave(self._places, dim=0)))
        return (output if size == 1 else self._group.all_reduce(output)) / self._weight

    def _apply(self, given: Tensor, expert: int, between: _Between) -> Tensor:
        """Every token to ``expert`` in one of its places and to the next ones, which count nothing, in the others."""
        place = self._place(len(given))[:, None]
        places = torch.arange(self._places, device=given.device)
        ids = (expert + places - place).remainder(self._layer.w13_weight.shape[0]).int()
        weights = torch.where(places == place, self._weight, 0.0)
        method = self._layer.quant_method
        self._serve(len(given))
        with patch.object(method.moe_kernel.fused_experts, "activation", between):
            output: Tensor = method.apply(self._layer, given, weights, ids, None, None)
        return output

    def _place(self, tokens: int) -> Tensor:
        return torch.arange(tokens, device=self._layer.w13_weight.device) % self._places

    def _units(self, size: int) -> Tensor:
        return torch.eye(size, dtype=self._layer.w13_weight.dtype, device=self._layer.w13_weight.device)
