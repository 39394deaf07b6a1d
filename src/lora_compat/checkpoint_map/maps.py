"""The map of a checkpoint: for each parameter on this rank, which elements of which tensor are where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lora_compat.checkpoint_map.learning import Load, learned
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.checkpoint_map.printing import folded
from lora_compat.checkpoint_map.proving import Origin
from lora_compat.checkpoint_map.shapes import TensorInfo


@dataclass(frozen=True, slots=True)
class ParameterMap:
    """One parameter: the pieces that come from the checkpoint, and how many elements come from elsewhere."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    others: Mapping[Origin, int]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The checkpoint tensors that it has elements of, in the order in which they first come."""
        return tuple(dict.fromkeys(piece.tensor for piece in sorted(self.pieces, key=lambda one: one.target.start)))

    @property
    def whole(self) -> bool:
        """Whether every element was moved here from the checkpoint, or is padding."""
        return not set(self.others) - {Origin.ZERO}

    def __str__(self) -> str:
        lines = [f"{self.name} {list(self.shape)}"]
        pieces = sorted(self.pieces, key=lambda one: (one.target.start, one.first_column))
        lines += [f"    {line}" for line in folded([piece.said(self.shape) for piece in pieces])]
        lines += [f"    {origin.value}: {count} elements" for origin, count in self.others.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CheckpointMap:
    """Where each element of a checkpoint goes, on this rank.

    ``unmoved`` are tensors of which no element is anywhere as it was: skipped, or something was computed of them.
    ``same`` has for further names of a parameter the first that it has; ``parameters`` has it under each.
    """

    shapes: Mapping[str, TensorInfo]
    parameters: Mapping[str, ParameterMap]
    unmoved: tuple[str, ...]
    same: Mapping[str, str]

    @classmethod
    def learn(
        cls,
        shapes: Mapping[str, TensorInfo],
        load: Load,
        parameters: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]],
    ) -> CheckpointMap:
        """Asks ``load``, which is handed ``(name, tensor)`` pairs like a model's ``load_weights``.

        Nothing is declared: the checkpoint that it is handed has numbered elements, and the ``parameters`` say
        afterwards which of them are where. What they say is proved on a checkpoint with other numbers, so no piece
        is a guess. The parameters' contents are lost; load the real checkpoint after this.

        Args:
            shapes: the tensors of the checkpoint; `shapes_in` reads them off the headers of its files.
            load: loads a checkpoint into the parameters; it is called several times.
            parameters: what to look at, by name; asked for after each load if it can be called, for loaders that
                replace parameters. A tensor under two names is looked at once.

        Raises:
            LoaderStopped: the loader raised; the message has the tensor that it was handed last.
        """
        current = parameters if callable(parameters) else lambda: parameters
        names = _first_names(current())
        proofs = learned(shapes, load, lambda: _chosen(current(), set(names.values())))
        found = {
            name: ParameterMap(name, tuple(one.shape), proofs[names[name]].pieces, proofs[names[name]].others)
            for name, one in current().items()
            if names.get(name) in proofs
        }
        used = {tensor for one in found.values() for tensor in one.tensors}
        unmoved = tuple(name for name in shapes if name not in used)
        return cls(shapes, found, unmoved, {name: first for name, first in names.items() if name != first})

    @classmethod
    def of(cls, model: Any, shapes: Mapping[str, TensorInfo], *, restore: bool = True) -> CheckpointMap:
        """`learn` of a model that has a ``load_weights``: its parameters, and buffers that the loader writes.

        With ``restore`` the model is as before afterwards, which takes as much memory again as it has.
        """
        kept = {name: one.detach().clone() for name, one in _tensors(model).items()} if restore else {}
        try:
            found = cls.learn(shapes, model.load_weights, lambda: _tensors(model))
        finally:
            now = _tensors(model)
            with torch.no_grad():
                for name, content in kept.items():
                    now[name].data.copy_(content)
        buffers = {name for name, _ in model.named_buffers()}
        written = {name: one for name, one in found.parameters.items() if one.pieces or name not in buffers}
        return replace(found, parameters=written)

    def places(self, tensor: str) -> Iterator[tuple[str, Piece]]:
        """Every piece of a checkpoint tensor, with the parameter that it is in."""
        for name, one in self.parameters.items():
            yield from ((name, piece) for piece in one.pieces if piece.tensor == tensor)

    def applied(self, parameter: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """What ``parameter`` holds of ``tensors`` of the checkpoint, in float64; zeros where it holds others.

        A low-rank delta of the checkpoint's tensors becomes that of the parameter like this, and so do weights.
        """
        whole = torch.zeros(self.parameters[parameter].shape, dtype=torch.float64)
        for piece in self.parameters[parameter].pieces:
            if piece.tensor in tensors:
                piece.put(tensors[piece.tensor].double(), whole)
        return whole

    def __str__(self) -> str:
        lines = folded([str(one) for name, one in self.parameters.items() if name not in self.same])
        same = folded([f"{name} is {first}" for name, first in self.same.items() if name in self.parameters])
        return "\n".join([*lines, *same, *folded([f"not moved: {name}" for name in self.unmoved])])


def _tensors(model: Any) -> dict[str, Tensor]:
    """Parameters under all their names, and buffers of floating-point numbers: others may steer the loader."""
    buffers = {name: one for name, one in model.named_buffers() if one.is_floating_point()}
    return {**dict(model.named_parameters(remove_duplicate=False)), **buffers}


def _first_names(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name the first that the same tensor has."""
    first: dict[object, str] = {}
    return {
        name: first.setdefault((one.data_ptr(), one.shape, one.stride(), one.dtype) if one.numel() else name, name)
        for name, one in parameters.items()
    }


def _chosen(parameters: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: one for name, one in parameters.items() if name in names}
