"""Loaders that do more than copy into place, and dtypes that are no plain floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_compat.checkpoint_map import CheckpointMap, Indices, Origin, Piece, TensorInfo
from tests.checkpoint_map.loaders import info

Handed = Iterable[tuple[str, Tensor]]


def whole(tensor: str, rows: int, columns: int) -> tuple[Piece, ...]:
    return (Piece(tensor, Indices(0, rows), Indices(0, rows), Indices(0, columns)),)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e8m0fnu], ids=str
)
def test_numbers_of_every_dtype_are_followed(dtype: torch.dtype) -> None:
    target = torch.zeros(400, 300).to(dtype)

    def load(weights: Handed) -> None:
        target.view(torch.uint8).copy_(dict(weights)["a"].view(torch.uint8))

    found = CheckpointMap.learn({"a": TensorInfo((400, 300), dtype)}, load, {"p": target})
    assert found.parameters["p"].pieces == whole("a", 400, 300)


def test_a_loader_that_needs_contiguous_tensors_gets_them() -> None:
    target = torch.zeros(40, 300)

    def load(weights: Handed) -> None:
        for _, one in weights:
            target.view(-1).copy_(one.view(-1))

    assert CheckpointMap.learn({"a": info(40, 300)}, load, {"p": target}).parameters["p"].pieces == whole("a", 40, 300)


def test_a_loader_that_writes_to_what_it_is_handed_spoils_no_other_tensor() -> None:
    targets = {"p": torch.zeros(4, 3), "q": torch.zeros(4, 3)}

    def load(weights: Handed) -> None:
        handed = dict(weights)
        targets["p"].copy_(handed["a"].add_(1))
        targets["q"].copy_(handed["b"])

    found = CheckpointMap.learn({"a": info(4, 3), "b": info(4, 3)}, load, targets)
    assert found.parameters["p"].others == {Origin.COMPUTED: 12}
    assert found.parameters["q"].pieces == whole("b", 4, 3)


def test_what_is_added_to_what_was_there_is_computed() -> None:
    target = torch.randn(4, 3)

    def load(weights: Handed) -> None:
        target.add_(dict(weights)["a"])

    found = CheckpointMap.learn({"a": info(4, 3)}, load, {"p": target}).parameters["p"]
    assert (found.pieces, found.others) == ((), {Origin.COMPUTED: 12})


def test_one_number_whatever_the_checkpoint_holds_is_constant() -> None:
    target = torch.zeros(6, 3)

    def load(weights: Handed) -> None:
        target[:4], target[4:] = dict(weights)["a"], -1

    assert CheckpointMap.learn({"a": info(4, 3)}, load, {"p": target}).parameters["p"].others == {Origin.CONSTANT: 6}


def test_parameters_that_the_loader_replaces_are_asked_for_again() -> None:
    model = torch.nn.Linear(3, 4, bias=False)

    def load_weights(weights: Handed) -> None:
        model.weight = torch.nn.Parameter(dict(weights)["a"].clone().float())

    found = CheckpointMap.learn({"a": info(4, 3)}, load_weights, lambda: dict(model.named_parameters()))
    assert found.parameters["weight"].pieces == whole("a", 4, 3)


def large(change: Any) -> CheckpointMap:
    """The map of a parameter that is too large to be looked at whole at first."""
    target = torch.zeros(300, 400)

    def load(weights: Handed) -> None:
        target.copy_(change(dict(weights)["a"].float()))

    return CheckpointMap.learn({"a": info(300, 400)}, load, {"p": target})


@pytest.mark.parametrize(
    "change",
    [
        lambda a: torch.cat([a[:100, 200:], a[:100, :200]], 1).repeat(3, 1),
        lambda a: torch.cat([a[:150], a[150:].flip(1)]),
        lambda a: a[torch.randperm(300, generator=torch.Generator().manual_seed(3))],
        lambda a: torch.cat([a[:, :100], a[:, 100:200].roll(1, 0), a[:, 200:]], 1),
    ],
    ids=["columns exchanged, thrice", "half mirrored", "permuted", "a strip moved"],
)
def test_what_a_quick_look_does_not_show_is_looked_at_whole(change: Any) -> None:
    found, tensor = large(change), torch.randn(300, 400)
    assert found.parameters["p"].whole
    assert torch.equal(found.applied("p", {"a": tensor}), change(tensor).double())


def test_one_element_that_is_out_of_place_is_not_passed_over() -> None:
    def exchanged(a: Tensor) -> Tensor:
        a = a.clone()
        a[77, 5], a[78, 6] = a[78, 6].clone(), a[77, 5].clone()
        return a

    found, tensor = large(exchanged), torch.randn(300, 400)
    assert found.parameters["p"].whole
    assert torch.equal(found.applied("p", {"a": tensor}), exchanged(tensor).double())


def test_one_element_that_is_computed_is_not_passed_over() -> None:
    def changed(a: Tensor) -> Tensor:
        a = a.clone()
        a[77, 5] *= 2
        return a

    found = large(changed).parameters["p"]
    assert found.others == {Origin.COMPUTED: 1}
    assert sum(piece.elements for piece in found.pieces) == 300 * 400 - 1
