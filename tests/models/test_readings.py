"""What two readings of a model are compared by."""

from __future__ import annotations

import torch

from conformance.subjects.models.programs import differ


def test_what_nobody_wrote_is_no_difference_and_what_an_adapter_adds_beside_it_is_one() -> None:
    unwritten, added = torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, 2.0])
    base = {"gate": {"output": unwritten, "rows": torch.tensor([3])}}
    assert not differ(base, {"gate": {"output": unwritten.clone(), "rows": torch.tensor([3])}})
    assert differ(base, {"gate": {"output": added, "rows": torch.tensor([3])}})
    assert differ(base, {"gate": {"output": unwritten[:1]}})
