"""What two readings of a model are compared by."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import Parts
from conformance.judging.models import require_same, same
from conformance.judging.verdicts import Violation
from conformance.subjects.models.likeness import State, around, differ, has_all, unlike
from strategies.models.cases import ModelCase


def test_what_nobody_wrote_is_no_difference_and_what_an_adapter_adds_beside_it_is_one() -> None:
    unwritten, added = torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, 2.0])
    base = {"gate": {"output": unwritten, "rows": torch.tensor([3])}}
    assert not differ(base, {"gate": {"output": unwritten.clone(), "rows": torch.tensor([3])}})
    assert differ(base, {"gate": {"output": added, "rows": torch.tensor([3])}})
    assert differ(base, {"gate": {"output": unwritten[:1]}})


def test_where_an_adapter_most_likely_shows_are_the_neighbours_of_its_module_and_who_has_other_names() -> None:
    one = torch.zeros(1)
    names = ("model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj")
    base = {name: {"output": one} for name in names} | {"model.norm": {"output as gate": one}}
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert around(base, (key,)) == {names[0], "model.norm"}


def test_modules_that_were_not_read_are_no_difference() -> None:
    base = {"gate": {"output": torch.zeros(1)}, "up": {"output": torch.zeros(1)}}
    assert not differ(base, {"up": {"output": torch.zeros(1)}})
    assert differ(base, {"up": {"output": torch.ones(1)}})


def test_a_number_where_there_was_none_is_a_difference() -> None:
    assert not same(torch.tensor([torch.nan]), torch.tensor([1.0]))
    before, after = (
        {"gate": {"output": torch.tensor([0.0, torch.nan])}},
        {"gate": {"output": torch.tensor([0.0, 1.0])}},
    )
    with pytest.raises(Violation, match=r"output\[1\]=1, but should be nan"):
        require_same(ModelCase(), before, after, 0, "after a reset")


KEYS = ("base_model.model.model.layers.0.mlp.gate.lora_A.weight",)
ALONE = RankGroup(0, 1, lambda rank, issued, tensor: [tensor])


class Told:
    """A model whose modules compute what they are told to, and that counts how it is read."""

    def __init__(self, held: list[Tensor] | None, **outputs: float) -> None:
        self._held, self._outputs = held, outputs
        self.asked: list[set[str] | None] = []

    def held(self) -> list[Tensor] | None:
        return self._held

    def read(self, number: int | None, *, only: Container[str] | None = None) -> dict[str, Parts]:
        self.asked.append(only if only is None else {name for name in self._outputs if name in only})
        names = (name for name in self._outputs if only is None or name in only)
        return {name: {"output": torch.tensor([self._outputs[name]])} for name in names}


@pytest.mark.parametrize(
    ("slots", "asked"), [([1.0], [{"gate"}]), ([2.0], [{"gate"}, None]), (None, [{"gate"}, None])]
)
def test_far_from_a_module_nothing_is_read_where_the_model_holds_what_it_held(
    slots: list[float] | None, asked: list[set[str] | None]
) -> None:
    before: Any = Told([torch.tensor([1.0])], gate=0.0, norm=0.0)
    state = State.of(before, before.read(None))
    now = Told(None if slots is None else [torch.tensor(slots)], gate=0.0, norm=0.0)
    assert unlike(cast(Any, now), KEYS, ALONE, state, now.held()) is None
    assert now.asked == asked


def test_what_came_to_be_held_alone_is_looked_for_in_what_the_whole_file_made() -> None:
    before, alone = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    whole, elsewhere = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 0.0, 2.0])
    assert has_all(State({}, [whole]), State({}, [before]), [alone])
    assert not has_all(State({}, [elsewhere]), State({}, [before]), [alone])
    assert not has_all(State({}, None), State({}, None), None)
