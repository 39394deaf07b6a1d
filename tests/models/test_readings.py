"""What two readings of a model are compared by."""

from __future__ import annotations

import pytest
import torch

from conformance.judging.models import require_same, same
from conformance.judging.verdicts import Violation
from conformance.subjects.models.programs import differ
from strategies.models.cases import ModelCase


def test_what_nobody_wrote_is_no_difference_and_what_an_adapter_adds_beside_it_is_one() -> None:
    unwritten, added = torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, 2.0])
    base = {"gate": {"output": unwritten, "rows": torch.tensor([3])}}
    assert not differ(base, {"gate": {"output": unwritten.clone(), "rows": torch.tensor([3])}})
    assert differ(base, {"gate": {"output": added, "rows": torch.tensor([3])}})
    assert differ(base, {"gate": {"output": unwritten[:1]}})


def test_a_number_where_there_was_none_is_a_difference() -> None:
    assert not same(torch.tensor([torch.nan]), torch.tensor([1.0]))
    before, after = (
        {"gate": {"output": torch.tensor([0.0, torch.nan])}},
        {"gate": {"output": torch.tensor([0.0, 1.0])}},
    )
    with pytest.raises(Violation, match=r"output\[1\]=1, but should be nan"):
        require_same(ModelCase(), before, after, 0, "after a reset")
