"""A model that is served wrongly by a right map differs from the merged checkpoint, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_compat import LoRAConfig, LoRAManager
from lora_compat.mapped import NotServedError
from tests.mapped.models import IDS, loaded, made, maps
from tests.mapped.mutants import PLANTED

TOKENS = torch.arange(IDS)
MIXED = [None, 1] * (IDS // 2) + [None]


def right_and_served(where: Path) -> tuple[Tensor, Tensor]:
    """What every other token with the adapter gives, and then all without it."""
    base, merged = (loaded(where / name, tied=False)(TOKENS) for name in ("base", "merged"))
    right = torch.where(torch.tensor([one is not None for one in MIXED])[:, None], merged, base)
    model = loaded(where / "base", tied=False)
    manager = LoRAManager(model, LoRAConfig(max_lora_rank=4), checkpoint=maps(where / "base", tied=False)[0])
    manager.add(1, where / "adapter")
    manager.activate(1)
    manager.map_tokens(MIXED)
    mixed = model(TOKENS)
    manager.deactivate(1)
    return torch.cat([right, base]), torch.cat([mixed, model(TOKENS)])


@pytest.mark.parametrize("bug", PLANTED)
def test_a_mistake_shows(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = PLANTED[bug]
    where = made(tmp_path, tied=False, **planted.options)
    right, served = right_and_served(where)
    assert torch.equal(right, served)
    monkeypatch.setattr(planted.owner, planted.attribute, planted.change(getattr(planted.owner, planted.attribute)))
    try:
        right, served = right_and_served(where)
    except NotServedError:  # as loud as can be
        return
    assert not torch.equal(right, served)
