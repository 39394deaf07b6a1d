"""The map says of every element what the loader really did with it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from lora_compat.checkpoint_map import CheckpointMap, Indices, LoaderStopped, Origin
from tests.checkpoint_map.loaders import HIDDEN, SHAPES, VOCABULARY, Model, checkpoint, info, learned

BUGS = (
    "rows-reversed", "head-not-tied", "not-taken-apart", "gate-and-up", "columns-rolled", "router-scaled",
    "experts-reversed", "k-and-v-swapped", "half-of-a-head", "v-takes-the-first-row", "rank-0-everywhere",
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("bug", ["", *BUGS])
def test_a_checkpoint_moved_by_the_map_is_what_its_own_loader_makes_of_it(
    bug: str, rank: int, ranks: int, dtype: torch.dtype
) -> None:
    found, model, tensors = learned(rank, ranks, dtype, bug), Model(rank, ranks, dtype, bug), checkpoint()
    model.load_weights(tensors.items())
    for name, parameter in model.named_parameters():
        if found.parameters[name].whole:
            moved = found.applied(name, tensors).to(parameter.dtype)
            assert torch.equal(moved, parameter), (name, str(found.parameters[name]))
    computed = {name for name, one in found.parameters.items() if Origin.COMPUTED in one.others}
    assert computed == {"norm"} | ({"router"} if bug == "router-scaled" else set())
    unwritten = {name for name, one in found.parameters.items() if Origin.UNWRITTEN in one.others}
    assert unwritten == {"bias"} | ({"head"} if bug == "head-not-tied" else set())


@pytest.mark.parametrize("bug", BUGS)
def test_a_mistake_of_the_loader_is_a_difference_of_the_maps(bug: str) -> None:
    ranks = 2 if bug == "rank-0-everywhere" else 1
    assert learned(ranks - 1, ranks, bug=bug) != learned(ranks - 1, ranks)


def test_a_tied_tensor_is_in_two_places_and_its_padding_is_known() -> None:
    found = learned()
    assert [name for name, _ in found.places("embed.weight")] == ["embed", "head"]
    assert found.parameters["embed"].others == {Origin.ZERO: 3 * HIDDEN}
    assert found.unmoved == ("norm.weight", "unused.weight")


def test_the_map_prints_readably(snapshot) -> None:
    assert str(learned(1, 2)) == snapshot


def test_parameters_are_as_before_once_it_is_learned() -> None:
    model = Model()
    model.load_weights(checkpoint().items())
    before = {name: one.clone() for name, one in model.named_parameters()}
    CheckpointMap.of(model, SHAPES)
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


def test_a_loader_that_raises_says_at_which_tensor() -> None:
    class Strict(Model):
        def load(self, name: str, tensor: Tensor) -> None:
            if name.startswith("unused"):
                raise KeyError(name)
            super().load(name, tensor)

    with pytest.raises(LoaderStopped, match=r"at 'unused.weight': KeyError") as caught:
        CheckpointMap.of(Strict(), SHAPES)
    assert caught.value.name == "unused.weight"


def test_a_loader_that_sorts_gathers_or_skips_is_followed() -> None:
    class Gathering(Model):
        def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
            for name, tensor in sorted(dict(weights).items(), reverse=True):
                if "router" not in name:
                    self.load(name, tensor)

    found = CheckpointMap.of(Gathering(), SHAPES)
    assert found.parameters["qkv"] == learned().parameters["qkv"]
    assert found.parameters["router"].others == {Origin.UNWRITTEN: 3 * HIDDEN}
    assert "router.weight" in found.unmoved


def test_two_tensors_side_by_side_are_two_pieces() -> None:
    shapes = {"a": info(4, 3), "b": info(4, 5)}
    target = torch.zeros(4, 8, dtype=torch.bfloat16)

    def load(weights: Iterable[tuple[str, Tensor]]) -> None:
        target.copy_(torch.cat([tensor for _, tensor in sorted(weights)], 1))

    found = CheckpointMap.learn(shapes, load, {"p": target})
    tensors = checkpoint(0, shapes)
    assert torch.equal(found.applied("p", tensors), torch.cat([tensors["a"], tensors["b"]], 1).double())
    assert found.parameters["p"].tensors == ("a", "b")


def test_elements_in_no_order_of_rows_and_columns_are_said_to_be_scattered() -> None:
    shapes = {"a": info(40, 40)}
    order = torch.randperm(1600, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(40, 40)

    def load(weights: Iterable[tuple[str, Tensor]]) -> None:
        target.copy_(next(iter(weights))[1].flatten()[order].view(40, 40))

    found = CheckpointMap.learn(shapes, load, {"p": target})
    assert (found.parameters["p"].pieces, found.parameters["p"].others) == ((), {Origin.SCATTERED: 1600})


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one + 1,
        lambda one: one * 0.5,
        lambda one: -one,
        lambda one: one.exp(),
        lambda one: one + one.flip(0),
    ],
    ids=["plus one", "halved", "negated", "exp", "added up"],
)
@pytest.mark.parametrize("shape", [(7,), (7, 5), (2, 3, 4)])
def test_what_is_computed_is_never_taken_for_what_is_moved(change, shape: tuple[int, ...]) -> None:
    target = torch.zeros(shape)

    def load(weights: Iterable[tuple[str, Tensor]]) -> None:
        target.copy_(change(next(iter(weights))[1].float()))

    found = CheckpointMap.learn({"a": info(*shape)}, load, {"p": target}).parameters["p"]
    assert found.pieces == ()
    assert set(found.others) <= {Origin.COMPUTED, Origin.SCATTERED}


def test_rows_and_columns_beyond_one_digit_are_told_apart() -> None:
    shapes = {"a": info(20_000, 2), "b": info(2, 20_000), "c": info(300, 3, dtype=torch.float8_e4m3fn)}
    targets = {name: torch.zeros(one.shape, dtype=one.dtype) for name, one in shapes.items()}

    def load(weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            targets[name].copy_(tensor)

    found = CheckpointMap.learn(shapes, load, targets)
    for name, one in shapes.items():
        (piece,) = found.parameters[name].pieces
        assert piece.rows == Indices(0, one.shape[0])
        assert piece.columns == Indices(0, one.shape[1])


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([3], "3"),
        ([2, 3, 4], "2:5"),
        ([0, 2, 4], "0:5:2"),
        ([4, 3, 2], "4:1:-1"),
        ([0, 1, 8, 9], "2 x (0:2) moved by 8"),
        ([5, 5, 5], "5:6:0"),
        ([0, 3, 1], "3 rows in another order, from 0"),
    ],
)
def test_indices_have_a_short_form_that_gives_them_back(indices: list[int], text: str) -> None:
    found = Indices.of(torch.tensor(indices))
    assert (str(found), found.tensor().tolist(), len(found)) == (text, indices, len(indices))


def test_the_rows_of_a_vocabulary_are_those_of_the_checkpoint() -> None:
    (piece,) = learned().parameters["embed"].pieces
    assert (piece.rows, piece.target) == (Indices(0, VOCABULARY), Indices(0, VOCABULARY))
