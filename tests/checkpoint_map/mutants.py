"""Wrong maps, and wrong laying out: what checking adapters against merged weights catches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lora_compat.checkpoint_map import CheckpointMap, Indices, Piece, TensorDelta
from lora_compat.checkpoint_map.adapter_tensors import Fitting
from lora_compat.peft_config import PeftConfig

Pieces = tuple[Piece, ...]


def _reversed(one: Indices) -> Indices:
    return Indices.of(one.tensor().flip(0))


def _rolled(one: Indices) -> Indices:
    return Indices.of(one.tensor().roll(1))


def _first(change: Callable[[Piece], Piece]) -> Callable[[Pieces], Pieces]:
    return lambda pieces: (change(pieces[0]), *pieces[1:])


def _exchanged(pieces: Pieces, one: int, other: int) -> Pieces:
    """Two pieces with each other's tensors."""
    names = {one: pieces[other].tensor, other: pieces[one].tensor}
    return tuple(replace(piece, tensor=names.get(index, piece.tensor)) for index, piece in enumerate(pieces))


# What each does to the pieces of one parameter of `loaders.Model`.
MAPS: dict[str, tuple[str, Callable[[Pieces], Pieces]]] = {
    "rows the other way round": ("down", _first(lambda one: replace(one, rows=_reversed(one.rows)))),
    "rows moved by one": ("router", _first(lambda one: replace(one, rows=_rolled(one.rows)))),
    "lines the other way round": ("qkv", _first(lambda one: replace(one, target=_reversed(one.target)))),
    "k and v exchanged": ("qkv", lambda pieces: _exchanged(pieces, 1, 2)),
    "v forgotten": ("qkv", lambda pieces: pieces[:2]),
    "two experts exchanged": ("experts_up", lambda pieces: _exchanged(pieces, 0, 2)),
    "the last expert forgotten": ("experts_up", lambda pieces: pieces[:-1]),
    "an expert twice": ("experts_up", lambda pieces: (replace(pieces[0], tensor=pieces[1].tensor), *pieces[1:])),
    "columns moved by one": ("down", _first(lambda one: replace(one, columns=_rolled(one.columns)))),
    "columns the other way round": ("qkv", _first(lambda one: replace(one, columns=_reversed(one.columns)))),
    "not taken apart": ("gate_up", _first(lambda one: replace(one, rows=Indices(0, len(one.rows))))),
    "half of a repeat": (
        "gate_up",
        _first(lambda one: replace(one, target=Indices(0, one.rows.length), rows=replace(one.rows, count=1))),
    ),
    "the tied head forgotten": ("head", lambda pieces: ()),
    "rows behind the padding": ("embed", _first(lambda one: replace(one, target=Indices(3, len(one.target))))),
    "a stack of experts the other way round": (
        "experts_down",
        _first(lambda one: replace(one, rows=_reversed(one.rows))),
    ),
    "a transposed tensor as it is": ("square", _first(lambda one: replace(one, transposed=False))),
    "a piece twice": ("down", lambda pieces: (*pieces, *pieces)),
}


def wrong_map(name: str, found: CheckpointMap) -> CheckpointMap:
    """``found`` with a bug."""
    parameter, change = MAPS[name]
    one = found.parameters[parameter]
    return replace(found, parameters={**found.parameters, parameter: replace(one, pieces=change(one.pieces))})


_RIGHT = Fitting._delta


def _turned(self: Fitting, module: str, pair: Any, fit: Any) -> TensorDelta:
    """B · A where the transpose is meant, and the other way round."""
    right = _RIGHT(self, module, pair, fit)
    return replace(right, lora_a=right.lora_b.transpose(1, 2), lora_b=right.lora_a.transpose(1, 2))


def _experts_outside(self: Fitting, module: str, pair: Any, fit: Any) -> TensorDelta:
    """The experts of B outside of the ranks, as they are in A."""
    b = pair.lora_b.reshape(pair.lora_b.shape[0], fit.stack, -1).transpose(1, 2)
    return _RIGHT(self, module, replace(pair, lora_b=b.reshape(pair.lora_b.shape)), fit)


def _first_expert(self: Fitting, module: str, pair: Any, fit: Any) -> TensorDelta:
    right = _RIGHT(self, module, pair, fit)
    return replace(right, lora_a=right.lora_a[:1].expand_as(right.lora_a))


# Class, method, what stands in for it, and the options of an adapter that shows it.
LAYING_OUT: Mapping[str, tuple[Any, str, Any, dict[str, Any]]] = {
    "turned": (Fitting, "_delta", _turned, {"target_modules": ["square"]}),
    "experts outside of the ranks in B": (
        Fitting, "_delta", _experts_outside, {"target_modules": [], "target_parameters": ["experts.down"]},
    ),
    "the first expert's A for all": (
        Fitting, "_delta", _first_expert, {"target_modules": [], "target_parameters": ["experts.down"]},
    ),
    "no scaling": (PeftConfig, "scaling_of", lambda self, module: 1.0, {"target_modules": ["q"]}),
    "alpha over r for rank-stabilised": (
        PeftConfig, "scaling_of", lambda self, module: self.lora_alpha / self.r,
        {"target_modules": ["q"], "use_rslora": True, "r": 4},
    ),
}  # fmt: skip
DTYPE = torch.float32
