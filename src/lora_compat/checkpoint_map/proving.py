"""What the digits suggested is proved on numbers in no order; what is left over gets its origin here."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_compat.checkpoint_map.alphabets import raw_dtype
from lora_compat.checkpoint_map.numbering import Disorder, Section
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.checkpoint_map.planes import Plane


class Origin(enum.Enum):
    """Where an element of a parameter comes from."""

    CHECKPOINT = "checkpoint"
    COMPUTED = "computed"  # from numbers of the checkpoint or from others, by more than moving them
    ZERO = "zero"  # padding
    CONSTANT = "constant"  # all that is left of the parameter is one number, whatever the checkpoint holds
    UNWRITTEN = "unwritten"  # the loader left what was there
    SCATTERED = "scattered"  # moved, in an order that is none of rows and columns


@dataclass(frozen=True, slots=True)
class Proof:
    """The pieces that hold, and the origins of all other elements; ``failed``: some pieces do not."""

    pieces: tuple[Piece, ...]
    others: Mapping[Origin, int]
    failed: bool


def proved(
    parameter: Tensor,
    proposed: Iterable[Piece],
    disorder: Disorder,
    section: Section,
    elements: tuple[Tensor, Tensor] | None,
) -> Proof:
    """The proof of one parameter, which holds what the loader made of the disorder.

    Args:
        proposed: what is to be proved.
        elements: of each element its row and column in the checkpoint, where that is known.
    """
    proposed = list(proposed)
    pieces = tuple(piece for piece in proposed if piece.holds(parameter, disorder.tensor(piece.tensor)))
    failed = len(pieces) < len(proposed)
    if sum(piece.elements for piece in pieces) == parameter.numel():
        return Proof(pieces, {}, failed)
    left = torch.ones(Plane.of(tuple(parameter.shape)).view(parameter).shape, dtype=torch.bool)
    for piece in pieces:
        plane = piece.plane(tuple(parameter.shape))
        view = left.transpose(1, 2) if plane.transposed else left
        lines, columns = piece.target.tensor(), slice(plane.first, plane.first + plane.columns)
        view[lines // plane.rows, lines % plane.rows, columns] = False
    return Proof(pieces, _others(parameter, left, disorder, section, elements), failed)


def _others(
    parameter: Tensor, left: Tensor, disorder: Disorder, section: Section, elements: tuple[Tensor, Tensor] | None
) -> dict[Origin, int]:
    values = Plane.of(tuple(parameter.shape)).view(parameter).cpu()
    rest = values[left]
    zero, unwritten = rest == 0, rest == section.letters.poison
    found = {Origin.ZERO: int(zero.sum()), Origin.UNWRITTEN: int(unwritten.sum())}
    other = rest[~(zero | unwritten)]
    if len(other) > 1 and bool((other == other[0]).all()):
        found[Origin.CONSTANT] = len(other)
    elif elements is not None and _moved_one_by_one(values, left & (values != 0), disorder, section, elements):
        found[Origin.SCATTERED] = len(other)
    else:
        found[Origin.COMPUTED] = len(other)
    return {origin: count for origin, count in found.items() if count}


def _moved_one_by_one(
    values: Tensor, left: Tensor, disorder: Disorder, section: Section, elements: tuple[Tensor, Tensor]
) -> bool:
    """Whether each of the elements ``left`` is the one of the checkpoint that the digits said."""
    rows, columns, seen = elements[0][left], elements[1][left], values[left]
    number, local = section.find(rows)
    for one in number.unique().tolist():
        here = number == one
        if one < 0 or bool((columns[here] < 0).any()) or int(columns[here].max()) >= section.infos[one].columns:
            return False
        source = disorder.tensor(section.names[one])
        flat = source.view(raw_dtype(source.dtype)).reshape(-1)
        if not torch.equal(flat[local[here] * section.infos[one].columns + columns[here]].to(seen.dtype), seen[here]):
            return False
    return True
