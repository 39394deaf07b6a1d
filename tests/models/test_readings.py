"""What two readings of a model are compared by."""

from __future__ import annotations

import pytest
import torch

from conformance.judging.models import require_same, same
from conformance.judging.verdicts import Violation
from conformance.subjects.models.likeness import around, differ
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
