"""The map of a checkpoint: for each parameter on this rank, which elements of which tensor are where."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.learning import Load, learned
from lora_compat.checkpoint_map.pieces import Piece, parameter_pieces
from lora_compat.checkpoint_map.shapes import TensorInfo


class Origin(enum.Enum):
    """Where an element of a parameter comes from."""

    CHECKPOINT = "checkpoint"
    COMPUTED = "computed"  # from numbers of the checkpoint or from others, by more than moving them
    ZERO = "zero"  # padding
    UNWRITTEN = "unwritten"  # the loader left what was there
    SCATTERED = "scattered"  # moved, in an order that is none of rows and columns


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
        return tuple(dict.fromkeys(piece.tensor for piece in self.pieces))

    @property
    def whole(self) -> bool:
        """Whether every element was moved here from the checkpoint, or is padding."""
        return not set(self.others) - {Origin.ZERO}

    def __str__(self) -> str:
        lines = [f"{self.name} {list(self.shape)}"]
        lines += [f"    {piece}" for piece in self.pieces]
        lines += [f"    {origin.value}: {count} elements" for origin, count in self.others.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CheckpointMap:
    """Where each element of a checkpoint goes, on this rank.

    ``unmoved`` are tensors of which no element is anywhere as it was: skipped, or something was computed of them.
    """

    parameters: Mapping[str, ParameterMap]
    shapes: Mapping[str, TensorInfo]
    unmoved: tuple[str, ...]

    @classmethod
    def learn(cls, shapes: Mapping[str, TensorInfo], load: Load, parameters: Mapping[str, Tensor]) -> CheckpointMap:
        """Asks ``load``, which is handed ``(name, tensor)`` pairs like a model's ``load_weights``.

        Nothing is declared: the checkpoint that it is handed has numbered elements, and the ``parameters`` say
        afterwards which of them are where. Their former contents are lost; load the real checkpoint after this.

        Args:
            shapes: the tensors of the checkpoint; `shapes_in` reads them off the headers of its files.
            load: loads a checkpoint into the parameters.
            parameters: what to look at, for instance ``dict(model.named_parameters())``.

        Raises:
            LoaderStopped: the loader raised; the message has the tensor that it was handed last.
        """
        floats = {name: info for name, info in shapes.items() if info.dtype.is_floating_point}
        found = {}
        for name, sources in learned(shapes, load, parameters).items():
            pieces, others = parameter_pieces(tuple(parameters[name].shape), sources, floats)
            found[name] = ParameterMap(name, tuple(parameters[name].shape), pieces, _named(others))
        used = {tensor for one in found.values() for tensor in one.tensors}
        return cls(found, dict(shapes), tuple(name for name in floats if name not in used))

    @classmethod
    def of(cls, model: Any, shapes: Mapping[str, TensorInfo]) -> CheckpointMap:
        """`learn` of a model that has a ``load_weights``; its parameters are as before afterwards."""
        parameters = dict(model.named_parameters())
        kept = {name: one.detach().clone() for name, one in parameters.items()}
        try:
            return cls.learn(shapes, model.load_weights, parameters)
        finally:
            with torch.no_grad():
                for name, one in parameters.items():
                    one.data.copy_(kept[name])

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
        lines = [str(one) for one in self.parameters.values()]
        return "\n".join([*lines, *(f"not moved: {name}" for name in self.unmoved)])


def _named(counts: Mapping[str, int]) -> dict[Origin, int]:
    return {Origin(name): count for name, count in counts.items() if count}


__all__ = ["CheckpointMap", "Indices", "Origin", "ParameterMap", "Piece"]
