"""An adapter by the map: the rows of B go where the rows of W went, the columns of A where the columns of W went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.maps import ParameterMap
from lora_compat.checkpoint_map.pieces import Piece


@dataclass(frozen=True, slots=True, eq=False)
class TensorDelta:
    """What an adapter adds to one checkpoint tensor: ``scaling · lora_b[n] · lora_a[n]`` to matrix ``n`` of it.

    ``lora_a [stack, rank, columns]``, ``lora_b [stack, rows, rank]``; a tensor of two dimensions is a stack of one.
    ``module`` is its name in the file. ``looked_up``: it is an embedding's, and no business of an LM head that has
    the same weight. ``whole``: the file has the module whole, and this is what it differs in.
    """

    tensor: str
    module: str
    lora_a: Tensor
    lora_b: Tensor
    scaling: float
    looked_up: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """``scaling · lora_b · lora_a`` is added to ``rows × columns`` of matrix ``at`` of a parameter on this rank.

    ``lora_a [rank, columns]`` and ``lora_b [rows, rank]`` are the parameter's: where that holds its tensor transposed,
    ``lora_a`` is of the tensor's B.
    """

    at: int
    rows: Indices
    columns: Indices
    lora_a: Tensor
    lora_b: Tensor
    scaling: float
    module: str
    looked_up: bool = False


def factors_of(parameter: ParameterMap, delta: TensorDelta) -> Iterator[Factor]:
    """What ``delta`` is in one parameter, as often as the parameter holds its tensor."""
    for piece in parameter.pieces:
        if piece.tensor == delta.tensor:
            yield from _of_piece(parameter, piece, delta)


def added(shape: tuple[int, ...], factors: Iterable[Factor]) -> Tensor:
    """The sum of ``factors`` as a parameter of ``shape``, in float64."""
    whole = torch.zeros(shape, dtype=torch.float64)
    stack = whole.view(-1, *shape[-2:])
    for one in factors:
        rows, columns = one.rows.tensor()[:, None], one.columns.tensor()[None]
        stack[one.at].index_put_((rows, columns), one.scaling * one.lora_b.double() @ one.lora_a.double(), True)
    return whole


def _of_piece(parameter: ParameterMap, piece: Piece, delta: TensorDelta) -> Iterator[Factor]:
    plane, height = piece.plane(parameter.shape), delta.lora_b.shape[1]
    lines, rows, columns = piece.target.tensor(), piece.rows.tensor(), piece.columns.tensor()
    places = torch.stack([lines // plane.rows, rows // height])
    for at, number in places.unique(dim=1).t().tolist():
        here = (places[0] == at) & (places[1] == number)
        lora_b, lora_a = delta.lora_b[number][rows[here] % height], delta.lora_a[number][:, columns]
        along, across = Indices.of(lines[here] % plane.rows), Indices(piece.first_column, len(columns))
        if piece.transposed:
            along, across, lora_a, lora_b = across, along, lora_b.t(), lora_a.t()
        yield Factor(at, along, across, lora_a, lora_b, delta.scaling, delta.module, delta.looked_up)
